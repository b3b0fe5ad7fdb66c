"""Read a raw data set and report all of its problems at once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saltray.data.decoding import Use, decode_all
from saltray.data.images import decode_image
from saltray.data.labelled_part import LabelledPart, LabelledReader, MasksById
from saltray.data.pixel_range import GreyValues, PixelRange, range_of
from saltray.data.problems import Problem, and_more, raise_problems
from saltray.data.raw_layout import RawLayout, find_layout
from saltray.data.source import Source
from saltray.data.statistics import Statistics, statistics_of
from saltray.data.tables import check_masks_table, read_depths, read_table
from saltray.data.tiles import TileIndex, TileShard
from saltray.data.workers import Mapper, map_here
from saltray.errors import DataError, NotFoundError
from saltray.progress import Observer

T = TypeVar("T")
NO_MASK = "no mask of the same name; add it, or move the image to test/images, if it is one to predict"
_EIGHT = range_of(8, 255)


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


@dataclass(frozen=True, eq=False)
class Inspected(Generic[T]):
    """A data set without problems.

    Args:
        index: of the labelled tiles.
        statistics: of the labelled tiles.
        used: what was made of the pixels of each slice, in order.
        pixel_range: of the image files, by which pixels were scaled to 0..255.
        bits: [N] bits per pixel of each mask's file.
        test: one per test image; empty unless they were asked for.
        depths: z by id, of all rows of depths.csv; empty without that file.
        notes: what was read in another way than the most usual one, a line each.
    """

    index: TileIndex
    statistics: Statistics
    used: tuple[T, ...]
    pixel_range: PixelRange
    bits: NDArray[np.int64]
    test: tuple[ImageSummary, ...]
    depths: dict[str, float]
    notes: tuple[str, ...]


def keep(_number: int, shard: TileShard) -> TileShard:
    """The pixels themselves, for `inspect` of what fits into memory."""
    return shard


def inspect(
    source: Source,
    use: Use[T],
    *,
    test: bool,
    mapper: Mapper = map_here,
    observer: Observer | None = None,
) -> Inspected[T]:
    """Decode the labelled part and, with `test`, the test images.

    Args:
        source: the raw data set.
        use: what is done with the pixels of each slice. As long as nothing is wrong with the data set it is called
            before all of it is read; its results are worth something only if nothing is raised.
        test: whether to read the test images, too.
        mapper: where slices are decoded.
        observer: is told how many tiles are decoded.

    Raises:
        DataError: a file has a problem; `problems` lists all of them.
        StorageError: the source cannot be reached.
    """
    problems: list[Problem] = []
    layout = find_layout(source, problems)
    first = _first_image(source, layout)
    # Pixels of 16 bits are scaled by the largest of all images, so these are decoded twice.
    at_once = _EIGHT if first is not None and first.dtype == np.uint8 else None
    reader = LabelledReader(source, layout, use, mapper, observer)
    tiles, slices = reader.read(first, at_once, problems)
    rows = np.flatnonzero(tiles.images[:, 2])
    scale = _usual_range(
        tiles.images[rows, 2], tiles.images[rows, 3], lambda at: layout.images[tiles.ids[rows[at]]].key, problems
    )
    tests = decode_all(source, layout.test if test else {}, lambda data: _summarise(data, scale), problems)
    _check_pairs(tiles, problems)
    _check_all_sizes(tiles, tests, problems)
    notes = list(layout.notes)
    depths = _check_tables(source, tiles, problems, notes)
    raise_problems(source.uri, problems)
    if at_once is None:
        tiles, slices = reader.read(first, scale, problems)
        raise_problems(source.uri, problems)  # of files that have changed meanwhile
    if scale.bits == 16:
        notes.insert(0, f"images: {scale}")
    if clipped := [layout.test[tile].key for tile, image in tests.items() if image.clipped]:
        count = "1 test image is" if len(clipped) == 1 else f"{len(clipped):,} test images are"
        notes.append(f"{count} brighter than any training image, and the excess is cut off: {and_more(clipped)}")
    height, width = tiles.images[0, :2].tolist()
    index = tiles.index()
    tallies, used = zip(*slices, strict=True)
    return Inspected(
        index=index,
        statistics=statistics_of(index, reduce(add, tallies), height, width),
        used=used,
        pixel_range=scale,
        bits=tiles.masks[:, 2],
        test=tuple(tests.values()),
        depths=depths,
        notes=tuple(notes),
    )


def _first_image(source: Source, layout: RawLayout) -> GreyValues | None:
    """One that tells what to expect of the others; None if it cannot be decoded, which is reported later."""
    for entry in layout.images.values():
        with suppress(DataError, NotFoundError):
            return decode_image(source.read(entry.key))
        break
    return None


def common_range(images: Mapping[str, GreyValues], problems: list[Problem]) -> PixelRange:
    """The range of a data set's images; those whose bits per pixel are not those of most are added to `problems`.

    Args:
        images: by file name.
        problems: receives one problem per image.
    """
    bits = np.array([8 * image.itemsize for image in images.values()], np.int64)
    tops = np.array([image.max() for image in images.values()], np.int64)
    return _usual_range(bits, tops, list(images).__getitem__, problems)


def _usual_range(
    bits: NDArray[np.int64], tops: NDArray[np.int64], name_of: Callable[[int], str], problems: list[Problem]
) -> PixelRange:
    """`common_range`, from bits per pixel and largest value of each image."""
    depths, counts = np.unique(bits, return_counts=True)  # ascending, so that 8 wins a draw
    usual = int(depths[np.argmax(counts)]) if len(depths) else 8
    what = f"{24 - usual} bits per pixel, but most images have {usual}; save all with the same, and the same range"
    problems += [Problem(name_of(at), what) for at in np.flatnonzero(bits != usual).tolist()]
    return range_of(usual, int(tops[bits == usual].max(initial=0)))


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


def _check_all_sizes(tiles: LabelledPart, tests: Mapping[str, ImageSummary], problems: list[Problem]) -> None:
    """`check_sizes` of the labelled part and the test images."""
    shapes = tiles.images[tiles.images[:, 2] > 0, :2]
    if len(shapes) and (shapes == shapes[0]).all() and all(image.shape == tuple(shapes[0]) for image in tests.values()):
        return
    check_sizes(tiles.shapes(), [(tiles.layout.test[tile].key, image.shape) for tile, image in tests.items()], problems)


def _check_pairs(tiles: LabelledPart, problems: list[Problem]) -> None:
    """Check that each image has a mask of its name and size, and each mask an image."""
    images, masks = tiles.layout.images, tiles.layout.masks
    problems += [Problem(entry.key, NO_MASK) for tile, entry in images.items() if tile not in masks]
    both = (tiles.images[:, 2] > 0) & (tiles.masks[:, 2] > 0)
    for row in np.flatnonzero(both & (tiles.images[:, :2] != tiles.masks[:, :2]).any(axis=1)).tolist():
        sizes = f"{_pixels(tiles.masks[row, :2])} pixels, but its image has {_pixels(tiles.images[row, :2])}"
        problems.append(Problem(masks[tiles.ids[row]].key, f"{sizes}; crop or pad one of them"))
    problems += [
        Problem(entry.key, "no image of the same name; add it, or remove the mask")
        for tile, entry in masks.items()
        if tile not in images
    ]


def _check_tables(source: Source, tiles: LabelledPart, problems: list[Problem], notes: list[str]) -> dict[str, float]:
    """Compare train.csv with the masks, and read the depths from depths.csv."""
    depths = {}
    for name, entry in tiles.layout.tables.items():
        try:
            data = read_table(source, entry)
        except DataError as error:
            problems.append(Problem(entry.key, str(error)))
            continue
        if name == "train.csv":
            check_masks_table(data, MasksById(tiles), tiles.layout.images.keys(), problems, notes)
        else:
            depths = read_depths(data, problems)
    return depths


def _summarise(data: bytes, scale: PixelRange) -> ImageSummary:
    image, clipped = scale.scale(decode_image(data))
    return ImageSummary(image.shape, not image.any(), clipped, pixels_digest(image))


def pixels_digest(image: NDArray[np.uint8]) -> bytes:
    """A digest that is equal for equal pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _pixels(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
