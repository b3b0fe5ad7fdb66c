"""Statistics of the labelled tiles of a data set."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.tiles import LabelledTiles
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


def statistics_of(tiles: LabelledTiles) -> Statistics:
    """The statistics of one or more tiles."""
    area = tiles.height * tiles.width
    salt = tiles.masks.sum(axis=(1, 2), dtype=np.int64)
    columns = tiles.masks.sum(axis=1, dtype=np.int64)
    whole_columns = ((columns == 0) | (columns == tiles.height)).all(axis=1)
    mean, std = _mean_and_std(tiles.images)
    return Statistics(
        train_tiles=len(tiles),
        height=tiles.height,
        width=tiles.width,
        empty=int((salt == 0).sum()),
        full=int((salt == area).sum()),
        vertical=int((whole_columns & (salt > 0) & (salt < area)).sum()),
        tiny=int(((salt > 0) & (salt <= 10)).sum()),
        black=int((~tiles.images.any(axis=(1, 2))).sum()),
        duplicate_masks=count_repeated(mask.tobytes() for mask in np.packbits(tiles.masks[salt > 0], axis=-1)),
        mean_coverage=float(salt.mean()) / area,
        median_coverage=float(np.median(salt[salt > 0])) / area if salt.any() else None,
        pixel_mean=mean,
        pixel_std=std,
    )


def count_repeated(keys: Iterable[bytes]) -> int:
    """The number of keys that occur more than once."""
    return sum(count > 1 for count in Counter(keys).values())


def _mean_and_std(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of pixels / 255, from the exact histogram of grey levels."""
    levels = np.arange(256) / 255
    shares = np.bincount(images.ravel(), minlength=256) / images.size
    mean = float(levels @ shares)
    return mean, float(np.sqrt((levels - mean) ** 2 @ shares))
