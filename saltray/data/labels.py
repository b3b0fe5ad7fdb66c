"""The masks of images that are to be predicted, where there are some."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from saltray.data.images import decode_mask
from saltray.data.names import tile_id
from saltray.data.problems import Problem, named
from saltray.data.raw_layout import find_layout
from saltray.data.source import Source
from saltray.errors import DataError


def read_labels(source: Source, names: Sequence[str], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The masks of some training images as rows of bits, [N, H * W / 8]; see `unpack_label`.

    Args:
        source: of the images.
        names: of the images, as `list_images` gives them.
        shape: height and width of each.

    Raises:
        DataError: a mask is missing, cannot be decoded, or is of another size; the first such file is named.
        StorageError: it cannot be read.
    """
    problems: list[Problem] = []
    masks = find_layout(source, problems).masks

    def read(name: str) -> NDArray[np.uint8]:
        tile = tile_id(name)
        if tile not in masks:
            raise named(DataError("it has no mask; add one of the same name"), source.uri, name)
        key = masks[tile].key
        try:
            pixels = decode_mask(source.read(key)).salt
            if pixels.shape != shape:
                height, width = pixels.shape
                raise DataError(f"{height}x{width} pixels, but its image has {shape[0]}x{shape[1]}; crop or pad it")
        except DataError as error:
            raise named(error, source.uri, key) from error
        return np.packbits(pixels)

    pool = ThreadPoolExecutor(source.threads)
    try:
        return np.stack(list(pool.map(read, names)))
    finally:
        pool.shutdown(cancel_futures=True)


def unpack_label(bits: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask [H, W] of 0 and 1 from its row of bits."""
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)
