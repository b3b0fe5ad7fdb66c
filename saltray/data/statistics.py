"""Statistics of the labelled tiles of a data set."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.tiles import TileIndex, TileShard
from saltray.records import Count, Fraction, Pixels


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts over labelled tiles."""

    train_tiles: Count
    height: Pixels
    """Pixels."""
    width: Pixels
    """Pixels."""
    empty: Count
    """Masks without salt."""
    full: Count
    """Masks with salt everywhere."""
    vertical: Count
    """Masks, neither empty nor full, in which every column is all salt or has none."""
    tiny: Count
    """Masks of 1 to 10 pixels."""
    black: Count
    """Images that are 0 everywhere."""
    duplicate_masks: Count
    """Groups of two or more identical non-empty masks."""
    mean_coverage: Fraction
    """Mean share of salt over all tiles."""
    median_coverage: Fraction | None
    """Median share of salt over the tiles that have any; None if no tile has."""
    pixel_mean: Fraction
    """Mean of pixels / 255."""
    pixel_std: Fraction
    """Standard deviation of pixels / 255."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts over the pixels of some tiles, which add up.

    Args:
        levels: [256] number of pixels of each grey level.
        black: images that are 0 everywhere.
        vertical: as in `Statistics`.
    """

    levels: NDArray[np.int64]
    black: int
    vertical: int

    @classmethod
    def of(cls, shard: TileShard) -> "Tally":
        """The counts of a shard."""
        _, height, width = shard.images.shape
        columns = shard.masks().sum(axis=1, dtype=np.int64)
        salt = columns.sum(axis=1)
        whole = ((columns == 0) | (columns == height)).all(axis=1)
        return cls(
            levels=np.bincount(shard.images.ravel(), minlength=256),
            black=int((~shard.images.any(axis=(1, 2))).sum()),
            vertical=int((whole & (salt > 0) & (salt < height * width)).sum()),
        )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.levels + other.levels, self.black + other.black, self.vertical + other.vertical)


def statistics_of(index: TileIndex, tally: Tally, height: int, width: int) -> Statistics:
    """The statistics of one or more tiles.

    Args:
        index: of the tiles.
        tally: of all of them.
        height: of each.
        width: of each.
    """
    salt = index.salt
    mean, std = _mean_and_std(tally.levels)
    return Statistics(
        train_tiles=len(index),
        height=height,
        width=width,
        empty=int((salt == 0).sum()),
        full=int((salt == index.area).sum()),
        vertical=tally.vertical,
        tiny=int(((salt > 0) & (salt <= 10)).sum()),
        black=tally.black,
        duplicate_masks=int((np.bincount(index.same_mask) > 1).sum()),
        mean_coverage=float(salt.mean()) / index.area,
        median_coverage=float(np.median(salt[salt > 0])) / index.area if salt.any() else None,
        pixel_mean=mean,
        pixel_std=std,
    )


def count_repeated(keys: Iterable[bytes]) -> int:
    """The number of keys that occur more than once."""
    return sum(count > 1 for count in Counter(keys).values())


def _mean_and_std(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of pixels / 255, from the number of pixels of each grey level."""
    levels = np.arange(256) / 255
    shares = counts / counts.sum()
    mean = float(levels @ shares)
    return mean, float(np.sqrt((levels - mean) ** 2 @ shares))
