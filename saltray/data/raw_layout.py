"""Which files of a raw data set are images, masks and tables, by tile id. Nothing is decoded here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from saltray.data.png import check_bytes
from saltray.data.source import Source
from saltray.errors import DataError
from saltray.storage.base import Entry

Part = Literal["train", "test"]
EXPECTED = (
    "expected train/images and train/masks (and test/images), or images and masks, all PNG, "
    "or Kaggle's train.zip, test.zip or competition_data.zip"
)
_HIDDEN = re.compile(r"(^|/)(\.(?!(?i:png)$)[^./]|__MACOSX/)")


@dataclass(frozen=True)
class RawLayout:
    """The files of a raw data set.

    Args:
        images: training images by id.
        masks: their masks by id.
        test: test images by id.
        tables: train.csv and depths.csv by these names, if present.
    """

    images: dict[str, Entry]
    masks: dict[str, Entry]
    test: dict[str, Entry]
    tables: dict[str, Entry]


def find_layout(source: Source, problems: list[str]) -> RawLayout:
    """Find all files of a data set; file names that cannot be used are added to `problems`.

    Raises:
        DataError: there are no training images, or no masks.
    """
    entries = _visible(source)
    keys = {entry.key: entry for entry in entries}
    top = "train/" if any(key.startswith(("train/images/", "train/masks/")) for key in keys) else ""
    layout = RawLayout(
        images=_by_id(entries, f"{top}images/", problems),
        masks=_by_id(entries, f"{top}masks/", problems),
        test=_by_id(entries, "test/images/", problems),
        tables={
            name: keys[key] for name in ("train.csv", "depths.csv") for key in (f"train/{name}", name) if key in keys
        },
    )
    if not (layout.images or problems):
        raise DataError(f"no training tiles in {source.uri}; {EXPECTED}")
    if not (layout.masks or problems):
        raise DataError(
            f"no masks in {source.uri}/{top}masks; add one PNG for each image of {top}images, with the same name"
        )
    return layout


def find_images(source: Source, part: Part) -> dict[str, Entry]:
    """The images of a part by id, ascending. Unlabelled images may also be in images/ or at the top level.

    Raises:
        DataError: there are no images, or a name cannot be used.
    """
    entries, problems = _visible(source), list[str]()
    for folder in ("train/images/", "images/") if part == "train" else ("test/images/", "images/"):
        if images := _by_id(entries, folder, problems):
            break
    else:
        alone = [entry for entry in entries if "/" not in entry.key and entry.key.lower().endswith(".png")]
        images = _by_id(alone if part == "test" else [], "", problems)
    raise_problems(source.uri, problems)
    if not images:
        raise DataError(
            f"no {part} images in {source.uri}; {EXPECTED}" + " or a folder with only images" * (part == "test")
        )
    return images


def raise_problems(uri: str, problems: list[str]) -> None:
    """Raise a DataError with all problems, sorted by file name, if there are any."""
    if problems:
        found = tuple(sorted(problems))
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise DataError(f"{count} in {uri}, fix or remove the files; the first: {found[0]}", found)


def printable(name: str) -> str:
    """A file name or id from outside, escaped if it has characters that are not safe to print."""
    return name if name.isprintable() else ascii(name)


def id_problem(name: str) -> str | None:
    """Why a name cannot be a tile's id; None if it can."""
    if not name:
        return "an empty id; every tile needs one"
    if len(name) > 100:
        return f"an id of {len(name)} characters; the limit is 100"
    if not name.isprintable():
        return "an id with control characters; rename it"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "an id that is a path; use names without '/', '\\' and '..'"
    return None


def _visible(source: Source) -> list[Entry]:
    """All files except hidden ones, file managers' own files and S3's folder markers."""
    return [entry for entry in source.list() if not (_HIDDEN.search(entry.key) or entry.key.endswith("/"))]


def _by_id(entries: Iterable[Entry], folder: str, problems: list[str]) -> dict[str, Entry]:
    """The usable files of a folder by tile id, ascending; a line for each of the others is added to `problems`."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if not entry.key.startswith(folder):
            continue
        name = entry.key.removeprefix(folder)
        tile, extension = name[:-4], name[-4:]
        problem = "not a PNG; convert it, or move it elsewhere" if extension.lower() != ".png" else id_problem(tile)
        if problem is None and tile in found:
            problem = f"its id {tile} is also that of {found[tile].key}; rename or remove one of them"
        try:
            check_bytes(entry.size)
        except DataError as error:
            problem = problem or str(error)
        if problem:
            problems.append(f"{printable(entry.key)}: {problem}")
        else:
            found[tile] = entry
    return dict(sorted(found.items()))
