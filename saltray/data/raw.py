"""Raw tiles: a whole part at once, or image by image for prediction."""

import os
from functools import lru_cache
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from saltray.data.inspection import check_sizes, decode_all, inspect
from saltray.data.png import decode_image
from saltray.data.raw_layout import Part, find_images, raise_problems
from saltray.data.source import Source
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError


@overload
def read_tiles(uri: str, *, part: Literal["train"] = "train") -> LabelledTiles: ...
@overload
def read_tiles(uri: str, *, part: Literal["test"]) -> Tiles: ...
def read_tiles(uri: str, *, part: Part = "train") -> Tiles:
    """All tiles of a part of a raw data set; those of the training part have masks.

    Args:
        uri: a folder, a zip or s3://bucket/prefix.
        part: "train", or "test" for unlabelled images in test/images, images/ or the folder itself.

    Raises:
        DataError: the part has problems; `problems` lists them by file.
        StorageError: the source cannot be reached.
    """
    source = Source(uri)
    if part == "train":
        return inspect(source, test=False).tiles
    problems: list[str] = []
    entries = find_images(source, part)
    images = decode_all(source, entries, decode_image, problems)
    check_sizes([(entries[tile].key, image.shape) for tile, image in images.items()], [], problems)
    raise_problems(source.uri, problems)
    return Tiles(tuple(images), np.stack(list(images.values())))


def list_images(uri: str, part: Part = "test") -> list[str]:
    """Names of the images of a part, ordered by id (the stem of the name); nothing is decoded.

    Raises:
        DataError: there are no images, or a name cannot be used.
        StorageError: the source cannot be reached.
    """
    return [entry.key for entry in find_images(Source(uri), part).values()]


def read_image(uri: str, name: str) -> NDArray[np.uint8]:
    """Grey pixels [H, W] of one image that `list_images` named. Each process opens a zip once.

    Raises:
        DataError: the image cannot be decoded, is too large or is not grey.
        StorageError: the source cannot be reached.
    """
    try:
        return decode_image(_cached_source(uri, os.getpid()).read(name))
    except DataError as error:
        raise DataError(f"{name} of {uri}: {error}", (f"{name}: {error}",)) from error


@lru_cache(maxsize=8)
def _cached_source(uri: str, _process: int) -> Source:
    # One per process, because the open file of a zip shares its position with a forked child's.
    return Source(uri)
