"""Raw tiles: a whole part at once, or image by image for prediction."""

import os
import threading
from functools import lru_cache
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from saltray.data.decoding import decode_all
from saltray.data.images import decode_image
from saltray.data.inspection import check_sizes, common_range, inspect, keep
from saltray.data.pixel_range import PixelRange, ScaledImage, scale_as_before
from saltray.data.problems import Problem, raise_problems
from saltray.data.raw_layout import Part, find_all_images, find_images
from saltray.data.source import Source
from saltray.data.tiles import LabelledTiles, Tiles, join_shards
from saltray.errors import DataError
from saltray.storage.base import Entry


@overload
def read_tiles(uri: str, *, part: Literal["train"] = "train") -> LabelledTiles: ...
@overload
def read_tiles(uri: str, *, part: Literal["test"], scale: PixelRange | None = None) -> Tiles: ...
def read_tiles(uri: str, *, part: Part = "train", scale: PixelRange | None = None) -> Tiles:
    """All tiles of a part of a raw data set; those of the training part have masks.

    Args:
        uri: a folder, a zip or s3://bucket/prefix.
        part: "train", or "test" for unlabelled images in test/images, images/ or the folder itself.
        scale: the range of the test images, such as an ensemble's `manifest.pixel_range`; else it is their own.

    Raises:
        DataError: the part has problems; `problems` lists them by file.
        StorageError: the source cannot be reached.
    """
    source = Source(uri)
    if part == "train":
        return join_shards(inspect(source, keep, test=False).used)
    return _read({}, find_images(source, part), source, scale)


def read_all_images(uri: str) -> Tiles:
    """The images of both parts of a raw data set, with or without masks; the ids are train/ID and test/ID.

    Args:
        uri: a folder, a zip or s3://bucket/prefix.

    Raises:
        DataError: images have problems; `problems` lists them by file.
        StorageError: the source cannot be reached.
    """
    source = Source(uri)
    train, test = (
        {f"{part}/{tile}": entry for tile, entry in entries.items()}
        for part, entries in zip(("train", "test"), find_all_images(source), strict=True)
    )
    return _read(train, test, source, None)


def _read(train: dict[str, Entry], test: dict[str, Entry], source: Source, scale: PixelRange | None) -> Tiles:
    """The images of these files by id, ascending.

    Args:
        train: of the training part, by whose size and range the others are judged, if there are any.
        test: of the test part.
        source: of both.
        scale: the range of all; else it is their own.
    """
    problems: list[Problem] = []
    decoded = [decode_all(source, entries, decode_image, problems) for entries in (train, test)]
    keys = {tile: entry.key for tile, entry in (train | test).items()}
    named, others = ({keys[tile]: image for tile, image in images.items()} for images in decoded)
    own = common_range(named or others, problems)
    shapes, other_shapes = ([(name, image.shape) for name, image in part.items()] for part in (named, others))
    check_sizes(shapes, other_shapes, problems)
    raise_problems(source.uri, problems)
    scaled: dict[str, NDArray[np.uint8]] = {}
    for tile, image in sorted((decoded[0] | decoded[1]).items()):
        try:
            scaled[tile] = (scale or own).scale(image).pixels
        except DataError as error:
            problems.append(Problem(keys[tile], str(error)))
    raise_problems(source.uri, problems)
    return Tiles(tuple(scaled), np.stack(list(scaled.values())))


def list_images(source: Source, part: Part = "test") -> list[str]:
    """Names of the images of a part, ordered by id (`tile_id` of the name); nothing is decoded.

    Raises:
        DataError: there are no images, a name cannot be used, or, of the test part, the images have masks.
        StorageError: the source cannot be reached.
    """
    return [entry.key for entry in find_images(source, part).values()]


def read_image(source: Source, name: str, *, scale: PixelRange | None) -> ScaledImage:
    """One image that `list_images` named, with values 0..255.

    Args:
        source: of the image.
        name: of the image.
        scale: the range of the training images, which an ensemble's manifest and a packed data set's have; None for one
            that was written before there was such a range.

    Raises:
        DataError: the image cannot be decoded, is too large, is not grey, or has another range. The message does not
            name the file.
        StorageError: the source cannot be reached.
    """
    pixels = decode_image(source.read(name))
    return scale_as_before(pixels) if scale is None else scale.scale(pixels)


def shared_source(uri: str) -> Source:
    """The source at a URI, which each process opens once, whatever the number of its threads.

    Raises:
        as `Source`.
    """
    process = os.getpid()
    with _locks.setdefault(process, threading.Lock()):  # a forked child's is its own, as the parent's may be held
        return _opened(uri, process)


_locks: dict[int, threading.Lock] = {}


@lru_cache(maxsize=8)
def _opened(uri: str, _process: int) -> Source:
    # One per process, because the open file of a zip shares its position with a forked child's.
    return Source(uri)
