"""Read a raw data set and report all of its problems at once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saltray.data.images import Mask, decode_image, decode_mask
from saltray.data.pixel_range import GreyValues, PixelRange, range_of
from saltray.data.problems import Problem, and_more, raise_problems
from saltray.data.raw_layout import RawLayout, find_layout
from saltray.data.source import Source
from saltray.data.tables import check_masks_table, read_depths, read_table
from saltray.data.tiles import LabelledTiles
from saltray.errors import DataError, NotFoundError
from saltray.storage.base import Entry

T = TypeVar("T")
NO_MASK = "no mask of the same name; add it, or move the image to test/images, if it is one to predict"


class ImageSummary(NamedTuple):
    """What is kept of a test image."""

    shape: tuple[int, ...]
    """[H, W]."""
    black: bool
    """Whether it is 0 everywhere."""
    clipped: bool
    """Whether it has values above the range of the training images."""
    digest: bytes
    """Of its pixels."""


@dataclass(frozen=True)
class Inspected:
    """A data set without problems.

    Args:
        tiles: the labelled part.
        pixel_range: of the files of its images, which `tiles` has scaled to 0..255.
        bits: [N] bits per pixel of each mask's file.
        test: one per test image; empty unless they were asked for.
        depths: z by id, of all rows of depths.csv; empty without that file.
        notes: what was read in another way than the most usual one, a line each.
    """

    tiles: LabelledTiles
    pixel_range: PixelRange
    bits: NDArray[np.int64]
    test: tuple[ImageSummary, ...]
    depths: dict[str, float]
    notes: tuple[str, ...]


def inspect(source: Source, *, test: bool) -> Inspected:
    """Decode the labelled part and, with `test`, the test images.

    Raises:
        DataError: a file has a problem; `problems` lists all of them.
    """
    problems: list[Problem] = []
    layout = find_layout(source, problems)
    images = decode_all(source, layout.images, decode_image, problems)
    scale = common_range({layout.images[tile].key: image for tile, image in images.items()}, problems)
    masks = decode_all(source, layout.masks, decode_mask, problems)
    tests = decode_all(source, layout.test if test else {}, lambda data: _summarise(data, scale), problems)
    _check_pairs(layout, images, masks, problems)
    shapes = [(layout.images[tile].key, image.shape) for tile, image in images.items()]
    check_sizes(shapes, [(layout.test[tile].key, image.shape) for tile, image in tests.items()], problems)
    notes = list(layout.notes)
    depths = _check_tables(source, layout, masks, problems, notes)
    raise_problems(source.uri, problems)
    if scale.bits == 16:
        notes.insert(0, f"images: {scale}")
    if clipped := [layout.test[tile].key for tile, image in tests.items() if image.clipped]:
        count = "1 test image is" if len(clipped) == 1 else f"{len(clipped):,} test images are"
        notes.append(f"{count} brighter than any training image, and the excess is cut off: {and_more(clipped)}")
    return Inspected(
        tiles=_labelled_tiles(images, masks, scale),
        pixel_range=scale,
        bits=np.array([mask.bits for mask in masks.values()]),
        test=tuple(tests.values()),
        depths=depths,
        notes=tuple(notes),
    )


def _labelled_tiles(images: dict[str, GreyValues], masks: dict[str, Mask], scale: PixelRange) -> LabelledTiles:
    """Arrays of all tiles. Each image leaves `images` as it is scaled, so that few are in memory twice."""
    ids = tuple(images)
    scaled = np.empty((len(ids), *images[ids[0]].shape), np.uint8)
    for row, tile in enumerate(ids):
        scaled[row] = scale.scale(images.pop(tile)).pixels
    return LabelledTiles(ids, scaled, np.stack([masks[tile].salt for tile in ids]))


def common_range(images: Mapping[str, GreyValues], problems: list[Problem]) -> PixelRange:
    """The range of a data set's images; those whose bits per pixel are not those of most are added to `problems`.

    Args:
        images: by file name.
        problems: receives one problem per image.
    """
    bits = Counter(8 * image.itemsize for image in images.values())
    usual = max(bits, key=lambda depth: (bits[depth], -depth), default=8)
    what = f"{24 - usual} bits per pixel, but most images have {usual}; save all with the same, and the same range"
    problems += [Problem(name, what) for name, image in images.items() if 8 * image.itemsize != usual]
    return range_of(image for image in images.values() if 8 * image.itemsize == usual)


def decode_all(
    source: Source, entries: dict[str, Entry], decode: Callable[[bytes], T], problems: list[Problem]
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


def check_sizes(
    train: Iterable[tuple[str, tuple[int, ...]]], test: Iterable[tuple[str, tuple[int, ...]]], problems: list[Problem]
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
        Problem(name, f"{_pixels(shape)} pixels, but most tiles have {_pixels(usual)}; crop or pad it")
        for name, shape in named
        if shape != usual
    ]


def _check_pairs(
    layout: RawLayout, images: dict[str, GreyValues], masks: dict[str, Mask], problems: list[Problem]
) -> None:
    """Check that each image has a mask of its name and size, and each mask an image."""
    for tile, entry in layout.images.items():
        if tile not in layout.masks:
            problems.append(Problem(entry.key, NO_MASK))
        elif tile in images and tile in masks and masks[tile].salt.shape != images[tile].shape:
            sizes = f"{_pixels(masks[tile].salt.shape)} pixels, but its image has {_pixels(images[tile].shape)}"
            problems.append(Problem(layout.masks[tile].key, f"{sizes}; crop or pad one of them"))
    problems += [
        Problem(entry.key, "no image of the same name; add it, or remove the mask")
        for tile, entry in layout.masks.items()
        if tile not in layout.images
    ]


def _check_tables(
    source: Source, layout: RawLayout, masks: dict[str, Mask], problems: list[Problem], notes: list[str]
) -> dict[str, float]:
    """Compare train.csv with the masks, and read the depths from depths.csv."""
    depths = {}
    for name, entry in layout.tables.items():
        try:
            data = read_table(source, entry)
        except DataError as error:
            problems.append(Problem(entry.key, str(error)))
            continue
        if name == "train.csv":
            known = {tile: masks.get(tile) for tile in layout.masks}
            check_masks_table(data, known, layout.images.keys(), problems, notes)
        else:
            depths = read_depths(data, problems)
    return depths


def _summarise(data: bytes, scale: PixelRange) -> ImageSummary:
    image, clipped = scale.scale(decode_image(data))
    return ImageSummary(image.shape, not image.any(), clipped, pixels_digest(image))


def pixels_digest(image: NDArray[np.uint8]) -> bytes:
    """A digest that is equal for equal pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _pixels(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
