"""Labelled tiles decoded a slice at a time, in this process or another.

Of each tile a few numbers are kept, by which the data set is judged as a whole; its pixels are in memory only while the
slice is.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from saltray.data.images import Mask, decode_image, decode_mask
from saltray.data.pixel_range import GreyValues, PixelRange
from saltray.data.problems import Problem
from saltray.data.source import Source
from saltray.data.statistics import Tally
from saltray.data.tiles import TileShard, mask_digests, pack_masks
from saltray.errors import DataError, NotFoundError
from saltray.storage.base import Entry

T = TypeVar("T")
Use = Callable[[int, TileShard], T]
"""What is done with the pixels of a slice, given its number: its result alone leaves the process."""


@dataclass(frozen=True)
class Slice:
    """Consecutive tiles to decode.

    Args:
        number: of the slice, from 0 on.
        ids: of its tiles, ascending.
        images: the image of each, where there is one.
        masks: the mask of each, where there is one.
        scale: the range of the data set's images; None to look at them, and not to use their pixels.
    """

    number: int
    ids: tuple[str, ...]
    images: Mapping[str, Entry]
    masks: Mapping[str, Entry]
    scale: PixelRange | None


@dataclass(frozen=True, eq=False)
class Decoded(Generic[T]):
    """What is known of the tiles of a slice.

    Args:
        images: [n, 4] height, width, bits per pixel and largest value; zeros for one that was not decoded.
        masks: [n, 4] height, width, bits per pixel and salt pixels; zeros for one that was not decoded.
        mask_digests: [n, 2], as `tiles.mask_digests`.
        problems: of the files.
        used: counts over the pixels, and what was made of them; None if they were not used.
    """

    images: NDArray[np.int64]
    masks: NDArray[np.int64]
    mask_digests: NDArray[np.uint64]
    problems: tuple[Problem, ...]
    used: tuple[Tally, T] | None


def decode_slice(source: Source, use: Use[T], task: Slice) -> Decoded[T]:
    """Decode a slice, and use the pixels if all of its tiles can be.

    Args:
        source: of the files.
        use: receives the pixels.
        task: what to decode.

    Raises:
        StorageError: the source cannot be reached.
    """
    problems: list[Problem] = []
    images = decode_all(source, task.images, decode_image, problems)
    masks = decode_all(source, task.masks, decode_mask, problems)
    rows = [_image_row(images.get(tile)) for tile in task.ids]
    mask_rows = [_mask_row(masks.get(tile)) for tile in task.ids]
    digests = np.zeros((len(rows), 2), np.uint64)
    for row, tile in enumerate(task.ids):
        if tile in masks:
            digests[row] = mask_digests(pack_masks(masks[tile].salt[None]))
    known = np.array(rows, np.int64).reshape(-1, 4), np.array(mask_rows, np.int64).reshape(-1, 4)
    alike = len({*(row[:2] for row in rows), *(row[:2] for row in mask_rows)}) == 1
    used = None
    if task.scale and alike and not problems and {row[2] for row in rows} == {task.scale.bits}:
        pixels = np.stack([task.scale.scale(images[tile]).pixels for tile in task.ids])
        shard = TileShard(task.ids, pixels, pack_masks(np.stack([masks[tile].salt for tile in task.ids])))
        used = Tally.of(shard), use(task.number, shard)
    return Decoded(*known, digests, tuple(problems), used)


def decode_all(
    source: Source, entries: Mapping[str, Entry], decode: Callable[[bytes], T], problems: list[Problem]
) -> dict[str, T]:
    """The decoded files by id, in the order of `entries`; a line for each that fails is added to `problems`."""

    def attempt(entry: Entry) -> T | DataError:
        try:
            return decode(source.read(entry.key))
        except NotFoundError:
            return DataError("a link that leads nowhere, or a file that was deleted meanwhile; restore or remove it")
        except DataError as error:
            return error

    found: dict[str, T] = {}
    with ThreadPoolExecutor(source.threads) as pool:
        for (tile, entry), result in zip(entries.items(), pool.map(attempt, entries.values()), strict=True):
            if isinstance(result, DataError):
                problems.append(Problem(entry.key, str(result)))
            else:
                found[tile] = result
    return found


def _image_row(pixels: GreyValues | None) -> tuple[int, int, int, int]:
    if pixels is None:
        return 0, 0, 0, 0
    return *pixels.shape, 8 * pixels.itemsize, int(pixels.max())


def _mask_row(mask: Mask | None) -> tuple[int, int, int, int]:
    if mask is None:
        return 0, 0, 0, 0
    return *mask.salt.shape, mask.bits, int(mask.salt.sum())
