"""Tiles to predict: read one by one, and checked all together before anything is predicted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.raw import read_image
from saltray.data.raw_layout import raise_problems
from saltray.data.source import Source
from saltray.errors import DataError, NotFoundError, StorageError


@dataclass(frozen=True)
class TileReader:
    """Reads the images of a data set that have the size of an ensemble's tiles."""

    uri: str
    """Of the data set; absolute, where it is read in another process."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def read(self, name: str) -> NDArray[np.uint8]:
        """Pixels [H, W] of one image.

        Args:
            name: as `list_images` gives it.

        Raises:
            DataError: the image cannot be decoded, or is of another size.
            StorageError: it has vanished, or cannot be read.
        """
        image = read_image(self.uri, name)
        if image.shape != self.shape:
            fault = (
                f"{name}: {image.shape[0]}x{image.shape[1]} pixels, but the ensemble was trained on "
                f"{self.height}x{self.width}; crop or pad it"
            )
            raise DataError(fault, (fault,))
        return image

    def check(self, names: Sequence[str]) -> None:
        """Decode all images, and refuse them if one cannot be predicted.

        Args:
            names: as `list_images` gives them.

        Raises:
            DataError: some cannot be decoded or read, or are of another size; `problems` lists them.
            StorageError: S3 cannot be reached.
        """
        source = Source(self.uri)
        problems: list[str] = []
        pool = ThreadPoolExecutor(source.threads)
        try:
            for found in pool.map(self._problems, names):
                problems += found
        finally:
            pool.shutdown(cancel_futures=True)
        raise_problems(source.uri, problems)

    def _problems(self, name: str) -> tuple[str, ...]:
        try:
            self.read(name)
        except DataError as error:
            return error.problems
        except NotFoundError:
            return (f"{name}: there is no such file, or it is a link to one; restore or remove it",)
        except StorageError as error:
            if self.uri.startswith("s3://"):  # each of thousands would wait as long
                raise
            return (f"{name}: {error}",)
        return ()
