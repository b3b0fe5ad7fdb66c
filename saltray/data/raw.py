"""Raw tiles: a whole part at once, or image by image for prediction."""

import os
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from saltray.data.inspection import check_sizes, decode_all, inspect
from saltray.data.layout import Part, find_images, refuse
from saltray.data.png import decode_image
from saltray.data.source import Source
from saltray.data.tiles import Tiles
from saltray.errors import DataError


def read_tiles(uri: str, *, part: Part = "train") -> Tiles:
    """All tiles of a part of a raw data set; masks come with the training part only.

    Args:
        uri: a folder, a zip or s3://bucket/prefix.
        part: "train", or "test" for unlabelled images in test/images, images/ or the folder itself.

    Raises:
        DataError: anything is wrong with the part; `problems` lists every fault by file.
        StorageError: the place cannot be reached.
    """
    source = Source(uri)
    if part == "train":
        return inspect(source, test=False).tiles
    problems: list[str] = []
    entries = find_images(source, part)
    images = decode_all(source, entries, decode_image, problems)
    check_sizes([(entries[tile].key, image.shape) for tile, image in images.items()], [], problems)
    refuse(source.uri, problems)
    return Tiles(tuple(images), np.stack(list(images.values())), None)


def list_images(uri: str, part: Part = "test") -> list[str]:
    """Names of the images of a part in the order of their ids (a name's stem); decodes nothing.

    Raises:
        DataError: there are none, or names that cannot be used.
        StorageError: the place cannot be reached.
    """
    return [entry.key for entry in find_images(Source(uri), part).values()]


def read_image(uri: str, name: str) -> NDArray[np.uint8]:
    """Grey pixels [H, W] of one image that `list_images` named. A zip is opened once in each process.

    Raises:
        DataError: it cannot be decoded, or is too large or not grey.
        StorageError: the place cannot be reached.
    """
    try:
        return decode_image(_opened(uri, os.getpid()).read(name))
    except DataError as error:
        raise DataError(f"{name} of {uri}: {error}", (f"{name}: {error}",)) from error


@lru_cache(maxsize=8)
def _opened(uri: str, _process: int) -> Source:
    # By process, because the open file of a zip shares its position with that of a forked child.
    return Source(uri)
