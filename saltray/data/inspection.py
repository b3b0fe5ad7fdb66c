"""Read a raw data set and report all of its problems at once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saltray.data.png import Mask, decode_image, decode_mask
from saltray.data.raw_layout import RawLayout, find_layout, printable, raise_problems
from saltray.data.source import Source
from saltray.data.tables import check_masks_table, read_depths
from saltray.data.tiles import LabelledTiles
from saltray.errors import DataError
from saltray.storage.base import Entry

T = TypeVar("T")


class ImageSummary(NamedTuple):
    """What is kept of a test image: shape [H, W], whether it is 0 everywhere, and the digest of its pixels."""

    shape: tuple[int, ...]
    black: bool
    digest: bytes


@dataclass(frozen=True)
class Inspected:
    """A data set without problems.

    Args:
        tiles: the labelled part.
        bits: [N] bits per pixel of each mask's file.
        test: one per test image; empty unless they were asked for.
        depths: z by id, of all rows of depths.csv; empty without that file.
    """

    tiles: LabelledTiles
    bits: NDArray[np.int64]
    test: tuple[ImageSummary, ...]
    depths: dict[str, float]


def inspect(source: Source, *, test: bool) -> Inspected:
    """Decode the labelled part and, with `test`, the test images.

    Raises:
        DataError: a file has a problem; `problems` lists all of them.
    """
    problems: list[str] = []
    layout = find_layout(source, problems)
    images = decode_all(source, layout.images, decode_image, problems)
    masks = decode_all(source, layout.masks, decode_mask, problems)
    tests = decode_all(source, layout.test if test else {}, _summarise, problems)
    _check_pairs(layout, images, masks, problems)
    shapes = [(layout.images[tile].key, image.shape) for tile, image in images.items()]
    check_sizes(shapes, [(layout.test[tile].key, image.shape) for tile, image in tests.items()], problems)
    depths = _check_tables(source, layout, masks, problems)
    raise_problems(source.uri, problems)
    tiles = LabelledTiles(
        tuple(images), np.stack(list(images.values())), np.stack([masks[tile].salt for tile in images])
    )
    bits = np.array([masks[tile].bits for tile in images])
    return Inspected(tiles, bits, tuple(tests.values()), depths)


def decode_all(
    source: Source, entries: dict[str, Entry], decode: Callable[[bytes], T], problems: list[str]
) -> dict[str, T]:
    """The decoded files by id, in the order of `entries`; a line for each that fails is added to `problems`."""

    def attempt(entry: Entry) -> T | DataError:
        try:
            return decode(source.read(entry.key))
        except DataError as error:
            return error

    found: dict[str, T] = {}
    with ThreadPoolExecutor(source.threads) as pool:
        for (tile, entry), result in zip(entries.items(), pool.map(attempt, entries.values()), strict=True):
            if isinstance(result, DataError):
                problems.append(f"{entry.key}: {result}")
            else:
                found[tile] = result
    return found


def check_sizes(
    train: Iterable[tuple[str, tuple[int, ...]]], test: Iterable[tuple[str, tuple[int, ...]]], problems: list[str]
) -> None:
    """Add to `problems` every image whose size is not the most frequent one of the training images.

    Without training images, it is the most frequent one of the test images.

    Args:
        train: name and shape [H, W] of each training image.
        test: the same of each test image.
        problems: receives one line per image.
    """
    named = [*train, *test]
    sizes = Counter(shape for _, shape in train) or Counter(shape for _, shape in named)
    if len({shape for _, shape in named}) < 2:
        return
    usual = max(sizes, key=lambda shape: (sizes[shape], shape))
    problems += [
        f"{name}: {_pixels(shape)} pixels, but most tiles have {_pixels(usual)}; crop or pad it"
        for name, shape in named
        if shape != usual
    ]


def _check_pairs(
    layout: RawLayout, images: dict[str, NDArray[np.uint8]], masks: dict[str, Mask], problems: list[str]
) -> None:
    """Check that each image has a mask of its name and size, and each mask an image."""
    for tile, entry in layout.images.items():
        if tile not in layout.masks:
            problems.append(f"{entry.key}: no mask of the same name; add it, or remove the image")
        elif tile in images and tile in masks and masks[tile].salt.shape != images[tile].shape:
            sizes = f"{_pixels(masks[tile].salt.shape)} pixels, but its image has {_pixels(images[tile].shape)}"
            problems.append(f"{layout.masks[tile].key}: {sizes}; crop or pad one of them")
    problems += [
        f"{entry.key}: no image of the same name; add it, or remove the mask"
        for tile, entry in layout.masks.items()
        if tile not in layout.images
    ]


def _check_tables(source: Source, layout: RawLayout, masks: dict[str, Mask], problems: list[str]) -> dict[str, float]:
    """Compare train.csv with the masks, and read the depths from depths.csv."""
    depths = {}
    for name, entry in layout.tables.items():
        try:
            data = source.read(entry.key)
        except DataError as error:
            problems.append(f"{printable(entry.key)}: {error}")
            continue
        if name == "train.csv":
            check_masks_table(data, {tile: masks.get(tile) for tile in layout.masks}, problems)
        else:
            depths = read_depths(data, problems)
    return depths


def _summarise(data: bytes) -> ImageSummary:
    image = decode_image(data)
    return ImageSummary(image.shape, not image.any(), pixels_digest(image))


def pixels_digest(image: NDArray[np.uint8]) -> bytes:
    """A digest that is equal for equal pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _pixels(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
