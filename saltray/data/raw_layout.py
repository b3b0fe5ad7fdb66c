"""Which files of a raw data set are images, masks and tables, by tile id. No image is decoded here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saltray.data.images import check_bytes
from saltray.data.layout import DATASETS, MANIFEST, dataset_prefix, shard_key
from saltray.data.names import id_problem, is_clutter, is_image, is_no_tile, tile_id
from saltray.data.packed import read_manifest
from saltray.data.problems import Problem, and_more, printable, raise_problems
from saltray.data.source import SAMPLE, TABLES, Source
from saltray.data.tables import read_ids
from saltray.errors import DataError
from saltray.storage.base import Entry, Store
from saltray.storage.near import is_there, near_uri
from saltray.storage.uri import open_store

Part = Literal["train", "test"]
EXPECTED = (
    "expected train/images and train/masks (and test/images), or images and masks, "
    "or Kaggle's train.zip, test.zip or competition_data.zip"
)


@dataclass(frozen=True)
class RawLayout:
    """The files of a raw data set.

    Args:
        images: training images by id.
        masks: their masks by id.
        test: test images by id.
        tables: train.csv and depths.csv by these names, if present.
        notes: what is in another place than the usual one, a line each.
    """

    images: dict[str, Entry]
    masks: dict[str, Entry]
    test: dict[str, Entry]
    tables: dict[str, Entry]
    notes: tuple[str, ...]


def find_layout(source: Source, problems: list[Problem]) -> RawLayout:
    """Find all files of a data set; file names that cannot be used are added to `problems`.

    Raises:
        DataError: there are no training images, or no masks.
    """
    layout = _find(source, problems)
    if not (layout.images or layout.masks or problems):
        raise DataError(_nothing(source, layout, "training tiles"))
    if not (layout.masks or problems):
        folder = next(iter(layout.images.values())).key.rpartition("/")[0]
        raise DataError(
            f"no masks in {source.uri}/{printable(folder.removesuffix('images'))}masks; add one for each image of "
            f"{printable(folder)}, with the same name"
        )
    return layout


def find_images(source: Source, part: Part) -> dict[str, Entry]:
    """The images of a part by id, ascending. Unlabelled images may also be in test/, images/ or at the top level.

    Raises:
        DataError: there are no images, a name cannot be used, or the test part is asked for and the images have masks.
    """
    problems: list[Problem] = []
    layout = _find(source, problems)
    images = layout.images if part == "train" or (layout.images and not layout.masks) else {}
    if part == "test" and layout.test:
        images = layout.test
    raise_problems(source.uri, problems)
    if not images and part == "test" and layout.images and layout.masks:
        these = (
            "only image has a mask, so it is"
            if len(layout.images) == 1
            else f"{len(layout.images):,} images have masks, so they are"
        )
        raise DataError(
            f"no test images in {source.uri}: its {these} of the "
            "training part; add test/images, name a folder without masks, or choose the part train"
        )
    if not images:
        raise DataError(_nothing(source, layout, f"{part} images"))
    return images


def find_all_images(source: Source) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The images of the training part and those of the test part by id, ascending; those without masks count, too.

    Raises:
        DataError: there are no images, or a name cannot be used.
    """
    problems: list[Problem] = []
    layout = _find(source, problems)
    raise_problems(source.uri, problems)
    if not (layout.images or layout.test):
        raise DataError(_nothing(source, layout, "images"))
    return layout.images, layout.test


def _find(source: Source, problems: list[Problem]) -> RawLayout:
    """The files of a data set, of which any may be missing."""
    entries = [entry for entry in source.list() if not (is_clutter(entry.key) or entry.key.endswith("/"))]
    problems += source.problems
    contradictory = {problem.where for problem in source.problems}
    entries = [entry for entry in entries if entry.key not in contradictory]
    keys = {entry.key.lower(): entry for entry in entries}
    top = "train/" if any(key.startswith(("train/images/", "train/masks/")) for key in keys) else ""
    images, masks = (_by_id(entries, f"{top}{folder}/", problems) for folder in ("images", "masks"))
    test = _by_id(entries, "test/images/" if any(key.startswith("test/images/") for key in keys) else "test/", problems)
    if top and not test and not any(key.startswith("masks/") for key in keys):
        test = _by_id(entries, "images/", problems)
    if not (test or images or masks):
        test = _by_id([entry for entry in entries if "/" not in entry.key and is_image(entry.key)], "", problems)
    used = [name for name in TABLES if name != SAMPLE]
    tables = {name: keys[key] for name in used for key in (f"train/{name}", name) if key in keys}
    notes = list(source.notes)
    if not test and masks and "train.csv" in tables:
        test = _unlabelled(source, tables["train.csv"], images, masks)
        images = {tile: entry for tile, entry in images.items() if tile not in test}
        if test:
            notes.append(f"{len(test):,} images without mask and row of train.csv are the test part")
    return RawLayout(images, masks, test, tables, tuple(notes))


def _unlabelled(source: Source, table: Entry, images: dict[str, Entry], masks: dict[str, Entry]) -> dict[str, Entry]:
    """The test images where they are in one folder with the training images: those that train.csv does not list.

    There are none unless train.csv lists every mask, as otherwise it does not tell which images should have one.
    """
    if not images.keys() - masks.keys():
        return {}
    listed = read_ids(source, table)
    if not masks.keys() <= listed:
        return {}
    return {tile: entry for tile, entry in images.items() if tile not in masks and tile not in listed}


def _nothing(source: Source, layout: RawLayout, what: str) -> str:
    """Why nothing was found, and what can be done."""
    start = f"no {what} in {source.uri}"
    folder, _, name = source.uri.rstrip("/").rpartition("/")
    if layout.test and name.lower() in ("images", "masks"):
        return f"{start}, which is only the folder of the {name.lower()}; name the folder that it is in, {folder}"
    if layout.test:
        return f"{start}, only {len(layout.test):,} images without masks; {EXPECTED}"
    if not is_there(source.uri):
        near = near_uri(source.uri, _may_have_tiles)
        return f"{start}, which does not exist; " + (f"did you mean {near}?" if near else "check the path")
    if zips := source.zips():
        return f"{start}, but {and_more(zips)}; name the zip that has the tiles, or unpack it; {EXPECTED}"
    if other := _part_of_store(open_store(source.uri)):
        return f"{start}, which is {other}"
    return f"{start}; {EXPECTED}, or a folder with only images to predict"


def _may_have_tiles(uri: str) -> bool:
    """Whether a file or folder may be a data set."""
    if uri.lower().endswith(".zip"):
        return True
    folder = open_store(uri)
    return (folder.is_remote or Path(uri).is_dir()) and (not folder.exists(MANIFEST) or folder.exists(shard_key(0)))


def _part_of_store(folder: Store) -> str | None:
    """What a folder is, and what to name instead, if it is none of raw files but of a store of saltray's."""
    if folder.exists(MANIFEST) and folder.exists(shard_key(0)):
        source = read_manifest(folder).source
        return f"a packed data set, for training alone; name the raw one that it was made of, {source}"
    if folder.exists(MANIFEST):
        return f"a run or another part of a store, as it seems; {EXPECTED}"
    for name in folder.folders(DATASETS):
        return f"a store; name the raw tiles, or, to train, its packed data set {folder.uri}/{dataset_prefix(name)}"
    return None


def _by_id(entries: Iterable[Entry], folder: str, problems: list[Problem]) -> dict[str, Entry]:
    """The usable files of a folder by tile id, ascending; a problem for each of the others is added to `problems`."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if not entry.key.lower().startswith(folder) or is_no_tile(entry.key):
            continue
        tile = tile_id(entry.key[len(folder) :])
        problem: str | None
        if not is_image(entry.key):
            problem = "no PNG, TIFF or JPEG; convert it to PNG, or move it elsewhere"
        else:
            problem = id_problem(entry.key[len(folder) :].rpartition(".")[0])
        if problem is None and tile in found:
            problem = f"its id '{tile}' is also that of '{printable(found[tile].key)}'; rename or remove one of them"
        try:
            check_bytes(entry.size)
        except DataError as error:
            problem = problem or str(error)
        if problem:
            problems.append(Problem(entry.key, problem))
        else:
            found[tile] = entry
    return dict(sorted(found.items()))
