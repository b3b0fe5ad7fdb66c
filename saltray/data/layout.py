"""Which files of a data set are images, masks and tables, by tile id. Nothing is decoded here."""

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
class Layout:
    """The files of a data set.

    Args:
        images: training images by id.
        masks: their masks by id.
        test: test images by id.
        tables: those of train.csv and depths.csv that there are, by that name.
    """

    images: dict[str, Entry]
    masks: dict[str, Entry]
    test: dict[str, Entry]
    tables: dict[str, Entry]


def find_layout(source: Source, problems: list[str]) -> Layout:
    """Where everything lies; names that cannot be used are added to `problems`.

    Raises:
        DataError: there are no training images, or no masks.
    """
    entries = _visible(source)
    keys = {entry.key: entry for entry in entries}
    top = "train/" if any(key.startswith(("train/images/", "train/masks/")) for key in keys) else ""
    layout = Layout(
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
        raise DataError(f"no masks in {source.uri}/{top}masks; put one PNG there for each of {top}images, of its name")
    return layout


def find_images(source: Source, part: Part) -> dict[str, Entry]:
    """The images of a part by id, ascending. Unlabelled ones may also lie in images/ or at the top.

    Raises:
        DataError: there are none, or names that cannot be used.
    """
    entries, problems = _visible(source), list[str]()
    for folder in ("train/images/", "images/") if part == "train" else ("test/images/", "images/"):
        if images := _by_id(entries, folder, problems):
            break
    else:
        alone = [entry for entry in entries if "/" not in entry.key and entry.key.lower().endswith(".png")]
        images = _by_id(alone if part == "test" else [], "", problems)
    refuse(source.uri, problems)
    if not images:
        raise DataError(
            f"no {part} images in {source.uri}; {EXPECTED}" + " or a folder of images alone" * (part == "test")
        )
    return images


def refuse(uri: str, problems: list[str]) -> None:
    """Raise a DataError with all problems, in order of file names, if there are any."""
    if problems:
        found = tuple(sorted(problems))
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise DataError(f"{count} in {uri}, mend or remove the files; the first: {found[0]}", found)


def shown(name: str) -> str:
    """A name from outside that is safe to print."""
    return name if name.isprintable() else ascii(name)


def name_fault(name: str) -> str | None:
    """Why a name cannot be a tile's id, if so."""
    if not name:
        return "an empty id"
    if len(name) > 100:
        return f"an id of {len(name)} characters; the limit is 100"
    if not name.isprintable():
        return "an id with control characters"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "an id that is a path; a tile's name has no '/', '\\' or '..'"
    return None


def _visible(source: Source) -> list[Entry]:
    """All files but hidden ones, the leavings of file managers, and S3's folder markers."""
    return [entry for entry in source.list() if not (_HIDDEN.search(entry.key) or entry.key.endswith("/"))]


def _by_id(entries: Iterable[Entry], folder: str, problems: list[str]) -> dict[str, Entry]:
    """The usable files of a folder by tile id, ascending; the faults of the others go to `problems`."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if not entry.key.startswith(folder):
            continue
        name = entry.key.removeprefix(folder)
        tile, extension = name[:-4], name[-4:]
        fault = "not a PNG; convert it, or move it away" if extension.lower() != ".png" else name_fault(tile)
        if fault is None and tile in found:
            fault = f"its id {tile} is that of {found[tile].key} too; rename or remove one"
        try:
            check_bytes(entry.size)
        except DataError as error:
            fault = fault or str(error)
        if fault:
            problems.append(f"{shown(entry.key)}: {fault}")
        else:
            found[tile] = entry
    return dict(sorted(found.items()))
