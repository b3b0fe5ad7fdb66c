"""A synthetic data set: in the layout of the TGS Salt Identification Challenge, with its irregularities, or packed.

Both are made slice by slice on all cores, and no more than a slice for each core is in memory.
"""

import csv
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saltray.data.layout import MANIFEST, dataset_prefix
from saltray.data.packed import FORMAT
from saltray.data.pixel_range import PixelRange
from saltray.data.rle import encode_rle
from saltray.data.shards import ShardWriter, Written, write_manifest
from saltray.data.statistics import Tally, statistics_of
from saltray.data.synthetic_tiles import SIDE, Part, cut_id, cuts, draw_tile, whole_id
from saltray.data.tiles import TileIndex, TileShard, first_of_same, mask_digests, pack_masks, shard_tiles
from saltray.data.workers import map_on_cores
from saltray.errors import ConfigError, DataError
from saltray.progress import Observer, TilesImported
from saltray.records import digest
from saltray.storage.base import Store
from saltray.storage.files import explain_os_error

FILES = 64
"""Tiles whose files are written at a time."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How tiles are drawn.

    Args:
        seed: 0 or more.
        noise: level of the recording noise, and of the migration noise inside the salt; 1 is as in field data, 0 is no
            noise.
        size: height and width of a tile, in pixels.
    """

    seed: int = 0
    noise: float = 1.0
    size: int = SIDE

    def __post_init__(self) -> None:
        _check_least("seed", self.seed, 0)
        _check_least("noise", self.noise, 0)
        _check_least("size", self.size, 1)
        if self.size > SIDE:
            raise ConfigError(f"size is {self.size}; use {SIDE} or less")


def write_dataset(
    directory: str | Path,
    *,
    tiles: int,
    seed: int = 0,
    test_tiles: int | None = None,
    noise: float = 1.0,
    size: int = SIDE,
    observer: Observer | None = None,
) -> Path:
    """Write a synthetic data set of `tiles` labelled and `test_tiles` unlabelled tiles, and return its folder.

    The folder appears only when it is complete. Tile i depends only on the seed and i, not on the number of tiles.

    Args:
        directory: a folder that is empty or does not exist.
        tiles: number of tiles with masks, 1 or more.
        seed: as for `Drawing`, and so are `noise` and `size`.
        test_tiles: number of tiles without masks. Unset: a quarter of `tiles`, but at least 1.
        noise: as there.
        size: as there.
        observer: is told how many tiles are written.

    Raises:
        ConfigError: a number is out of range.
        DataError: the folder is not empty.
        StorageError: it cannot be written.
    """
    drawing = Drawing(seed=seed, noise=noise, size=size)
    tests = check_tiles(tiles, test_tiles)
    folder = Path(directory).resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} exists and is not an empty folder; choose another one, or delete it first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            whole = Path(scratch, "data")
            write_files(whole, drawing, tiles, tests, observer)
            whole.replace(folder)
    except OSError as error:
        raise explain_os_error(f"cannot write {folder}", error) from error
    return folder


def check_tiles(tiles: int, test_tiles: int | None) -> int:
    """The number of test tiles, after a check of both numbers.

    Raises:
        ConfigError: a number is out of range.
    """
    _check_least("tiles", tiles, 1)
    _check_least("test_tiles", 0 if test_tiles is None else test_tiles, 0)
    return max(1, tiles // 4) if test_tiles is None else test_tiles


def write_files(folder: Path, drawing: Drawing, tiles: int, test_tiles: int, observer: Observer | None = None) -> None:
    """Write the files of such a data set into a new folder, which an error leaves incomplete.

    Args:
        folder: does not exist yet.
        drawing: of its tiles.
        tiles: as for `write_dataset`.
        test_tiles: as there.
        observer: as there.

    Raises:
        ConfigError: two tiles have the same id.
        OSError: a file cannot be written.
    """
    parts: tuple[tuple[Part, int], ...] = (("train", tiles), ("test", test_tiles))
    for part, count in parts:
        _ids(drawing, count, part)
    for name in ("train/images", "train/masks", "test/images"):
        (folder / name).mkdir(parents=True)
    slices = [
        _Files(part, start, min(start + FILES, count)) for part, count in parts for start in range(0, count, FILES)
    ]
    with ExitStack() as stack:
        labels, depths, sample = (
            _Table(stack.enter_context((folder / name).open("w", newline="")), ("id", column))
            for name, column in (("train.csv", "rle_mask"), ("depths.csv", "z"), ("sample_submission.csv", "rle_mask"))
        )
        done = 0
        written = map_on_cores(partial(_write_files, folder, drawing), slices)
        for each, rows in zip(slices, written, strict=True):
            table = labels if each.part == "train" else sample
            table.add([(tile, runs) for tile, runs, _ in rows])
            depths.add([(tile, depth) for tile, _, depth in rows])
            done += len(rows)
            if observer is not None and done < tiles + test_tiles:
                observer(TilesImported(done, tiles + test_tiles))


def write_packed(store: Store, drawing: Drawing, tiles: int, observer: Observer | None = None) -> Store:
    """Write the labelled tiles of such a data set as a packed one, unless the store has it; returns its folder.

    Args:
        store: where packed data sets are kept.
        drawing: of the tiles.
        tiles: their number.
        observer: is told how many tiles are written.

    Raises:
        ConfigError: a number is out of range, or two tiles have the same id.
        StorageError: the store cannot be written.
    """
    check_tiles(tiles, None)
    name = f"synth-{digest([FORMAT, tiles, drawing.seed, drawing.noise, drawing.size])[:12]}"
    folder = store.sub(dataset_prefix(name))
    if folder.exists(MANIFEST):
        return folder
    ids = _ids(drawing, tiles, "train")
    step = shard_tiles(drawing.size**2)
    starts = range(0, tiles, step)
    done, parts = 0, []
    order = np.array(sorted(range(tiles), key=ids.__getitem__))
    tasks = (_Shard(number, order[start : start + step].tolist()) for number, start in enumerate(starts))
    for part in map_on_cores(partial(_draw_shard, drawing, ShardWriter(folder)), tasks):
        parts.append(part)
        done += len(part.salt)
        if observer is not None and done < tiles:
            observer(TilesImported(done, tiles))
    salt = np.concatenate([part.salt for part in parts])
    same_mask = first_of_same(np.concatenate([part.digests for part in parts]), salt)
    index = TileIndex(tuple(sorted(ids)), salt, same_mask, drawing.size**2)
    write_manifest(
        folder,
        [part.written for part in parts],
        name=name,
        source=f"synthetic tiles of seed {drawing.seed}",
        index=index,
        statistics=statistics_of(index, reduce(add, (part.tally for part in parts)), drawing.size, drawing.size),
        pixel_range=PixelRange(bits=8, maximum=255),
    )
    return folder


class _Files(NamedTuple):
    """Tiles of which files are to be written."""

    part: Part
    start: int
    stop: int


def _write_files(folder: Path, drawing: Drawing, task: _Files) -> list[tuple[str, str, int]]:
    """Write the files of some tiles; id, runs of the mask ("1 1" of a test tile) and depth of each."""
    rows = []
    for index in range(task.start, task.stop):
        tile = draw_tile(index, seed=drawing.seed, part=task.part, noise=drawing.noise, size=drawing.size)
        _write_image(folder / task.part / "images" / f"{tile.id}.png", tile.image)
        if task.part == "train":
            # Kaggle's masks are 16-bit, except for the empty ones.
            mask = tile.mask.astype(np.uint16) * 65535 if tile.mask.any() else tile.mask
            Image.fromarray(mask).save(folder / "train/masks" / f"{tile.id}.png")
        rows.append((tile.id, encode_rle(tile.mask) if task.part == "train" else "1 1", tile.depth))
    return rows


def _write_image(path: Path, grey: NDArray[np.uint8]) -> None:
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(path)


class _Shard(NamedTuple):
    """The tiles of a shard, in the order of their ids."""

    number: int
    tiles: list[int]


class _Drawn(NamedTuple):
    """What is known of a shard."""

    salt: NDArray[np.int64]
    digests: NDArray[np.uint64]
    tally: Tally
    written: Written


def _draw_shard(drawing: Drawing, write: ShardWriter, task: _Shard) -> _Drawn:
    tiles = [draw_tile(index, seed=drawing.seed, noise=drawing.noise, size=drawing.size) for index in task.tiles]
    masks = np.stack([tile.mask for tile in tiles])
    shard = TileShard(tuple(tile.id for tile in tiles), np.stack([tile.image for tile in tiles]), pack_masks(masks))
    salt = masks.sum(axis=(1, 2), dtype=np.int64)
    return _Drawn(salt, mask_digests(shard.mask_bits), Tally.of(shard), write(task.number, shard))


class _Table:
    """A CSV file that is written row by row."""

    def __init__(self, file: IO[str], header: tuple[str, str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(header)

    def add(self, rows: list[tuple[str, object]]) -> None:
        self._writer.writerows(rows)


def _ids(drawing: Drawing, tiles: int, part: Part) -> list[str]:
    """The ids of the tiles of a part, in the order of their numbers.

    Raises:
        ConfigError: two are the same.
    """
    each = cuts(drawing.size)
    wholes = [whole_id(number, drawing.seed, part) for number in range(-(-tiles // each))]
    if len(set(wholes)) < len(wholes):
        raise ConfigError(f"seed {drawing.seed} gives two of {tiles:,} tiles the same id; use another seed")
    if drawing.size == SIDE:
        return wholes
    return [cut_id(whole, cut) for whole in wholes for cut in range(each)][:tiles]


def _check_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise ConfigError(f"{name} is {value}; use {least} or more")
