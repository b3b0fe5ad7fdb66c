"""Tiles to predict: read one by one, and checked all together before anything is predicted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.pixel_range import PixelRange, ScaledImage
from saltray.data.problems import Problem, named, raise_problems
from saltray.data.raw import read_image, shared_source
from saltray.data.source import Source
from saltray.errors import DataError, NotFoundError, StorageError


@dataclass(frozen=True, kw_only=True)
class TileReader:
    """Reads the images of a data set that have the size and the range of an ensemble's tiles."""

    uri: str
    """Of the data set; absolute, where it is read in another process."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    scale: PixelRange | None
    """Of the training images, by which values become 0..255; None if the ensemble has none."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def read(self, name: str) -> NDArray[np.uint8]:
        """Pixels [H, W] of one image, 0..255.

        Args:
            name: as `list_images` gives it.

        Raises:
            DataError: the image cannot be decoded, or is of another size or range.
            StorageError: it has vanished, or cannot be read.
        """
        source = shared_source(self.uri)
        try:
            return self._read(source, name).pixels
        except DataError as error:
            raise named(error, self.uri, name) from error

    def check(self, source: Source, names: Sequence[str]) -> tuple[str, ...]:
        """Decode all images, and refuse them if one cannot be predicted.

        Args:
            source: at `uri`.
            names: as `list_images` gives them.

        Returns:
            Those with values above the range, which become 255.

        Raises:
            DataError: some cannot be decoded or read, or are of another size or range; `problems` lists them.
            StorageError: S3 cannot be reached.
        """
        pool = ThreadPoolExecutor(source.threads)
        try:
            results = list(pool.map(lambda name: self._judge(source, name), names))
        finally:
            pool.shutdown(cancel_futures=True)
        raise_problems(source.uri, [result for result in results if isinstance(result, Problem)])
        return tuple(name for name, clipped in zip(names, results, strict=True) if clipped)

    def _judge(self, source: Source, name: str) -> Problem | bool:
        """What is wrong with an image, or whether it is clipped."""
        try:
            return self._read(source, name).clipped
        except DataError as error:
            return Problem(name, str(error))
        except NotFoundError:
            return Problem(name, "there is no such file, or it is a link to one; restore or remove it")
        except StorageError as error:
            if self.uri.startswith("s3://"):  # each of thousands would wait as long
                raise
            return Problem(name, str(error))

    def _read(self, source: Source, name: str) -> ScaledImage:
        """An image of the ensemble's size and range. The message of a DataError does not name the file."""
        image = read_image(source, name, scale=self.scale)
        height, width = image.pixels.shape
        if (height, width) != self.shape:
            raise DataError(
                f"{height}x{width} pixels, but the ensemble was trained on {self.height}x{self.width}; crop or pad it"
            )
        return image
