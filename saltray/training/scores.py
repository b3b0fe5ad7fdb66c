"""Scores that one can trust: intervals over tiles, strata, and whether probabilities mean what they say.

The bootstrap draws as many tiles as there are, with replacement, many times. The scores of tiles are whole tenths, so
that all that matters of a draw is how many tiles have each score. These numbers are multinomial, and are drawn
directly: the same distribution, without an array of resamples x tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.training.evaluation import Interval, Reliability, ReliabilityBin, Stratum

RESAMPLES = 10_000
SEED = 0
TAILS = (2.5, 97.5)
"""Percentiles between which 95 % of the resamples lie."""
STRATA = 10
"""Groups of equal size of the tiles with salt."""
BINS = 20
"""Steps of probability of the reliability figure."""
EMPTY = "no salt"
"""Name of the stratum of tiles without salt."""


def bootstrap_sums(tenths: NDArray[np.int64], resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """The sum over the tiles in each resample, [resamples]; the same for the same scores.

    Args:
        tenths: [N], a score or a difference of scores of each tile, in tenths.
        resamples: their number.
    """
    values, counts = np.unique(tenths, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(tenths), counts / len(tenths), size=resamples)
    return np.asarray(drawn @ values)


def bootstrap_interval(tenths: NDArray[np.int64]) -> Interval:
    """The 95 % interval of the mean score over tiles.

    Args:
        tenths: as for `bootstrap_sums`.
    """
    low, high = np.percentile(bootstrap_sums(tenths) / (10 * len(tenths)), TAILS)
    return Interval(low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """By how much the second of two predictions of the same tiles scores higher."""

    name: str
    """Of the tiles: all of them, a fold, or a stratum."""
    tiles: int
    first: float
    """Score of the first."""
    second: float
    """Score of the second."""
    interval: Interval
    """Of `second - first`, over tiles."""
    probability: float
    """Share of the resamples in which the second is better; one in which both are equal counts half."""

    @property
    def difference(self) -> float:
        """`second - first`."""
        return self.second - self.first


def paired_difference(name: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> PairedDifference:
    """Compare two predictions by paired bootstrap: each resample has the same tiles of both.

    Args:
        name: of the tiles.
        first: [N], score of each tile in tenths; one tile or more.
        second: the same of the other prediction.
    """
    tiles = len(first)
    sums = bootstrap_sums(second - first)
    low, high = np.percentile(sums / (10 * tiles), TAILS)
    return PairedDifference(
        name=name,
        tiles=tiles,
        first=int(first.sum()) / (10 * tiles),
        second=int(second.sum()) / (10 * tiles),
        interval=Interval(low=float(low), high=float(high)),
        probability=float(((sums > 0) + (sums == 0) / 2).mean()),
    )


def strata_of(salt: NDArray[np.int64], pixels: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and tiles of each stratum that has any: those without salt, then the others by deciles of their coverage.

    Tiles of equal coverage are in the same stratum.

    Args:
        salt: [N], pixels of salt of each tile.
        pixels: of a tile.

    Yields:
        its name, and whether each tile is in it, [N].
    """
    coverage = salt / pixels
    with_salt = coverage > 0
    if not with_salt.all():
        yield EMPTY, ~with_salt
    if not with_salt.any():
        return
    ends = np.quantile(coverage[with_salt], np.arange(1, STRATA) / STRATA)
    place = np.searchsorted(ends, coverage)
    for decile in range(STRATA):
        inside = with_salt & (place == decile)
        if inside.any():
            low, high = 100 * coverage[inside].min(), 100 * coverage[inside].max()
            yield f"{low:.1f} to {high:.1f} % salt", inside


def score_by_stratum(tenths: NDArray[np.int64], salt: NDArray[np.int64], pixels: int) -> tuple[Stratum, ...]:
    """The score of each stratum.

    Args:
        tenths: [N], score of each tile in tenths.
        salt: as for `strata_of`.
        pixels: as there.
    """
    return tuple(
        Stratum(
            name=name,
            tiles=int(inside.sum()),
            score=float(tenths[inside].mean() / 10),
            interval=bootstrap_interval(tenths[inside]),
        )
        for name, inside in strata_of(salt, pixels)
    )


class PixelsByProbability:
    """Counts of pixels at each probability, of predictions that are added a part at a time and not kept.

    Half-precision numbers are few enough to count the pixels of each.
    """

    def __init__(self) -> None:
        self._pixels, self._salt = (np.zeros(2**16, np.int64) for _ in range(2))

    def add(self, probabilities: NDArray[np.float16], masks: NDArray[np.uint8]) -> None:
        """Count the pixels of some tiles.

        Args:
            probabilities: [N, H, W], 0..1.
            masks: [N, H, W], salt where it is not 0.
        """
        codes = np.ascontiguousarray(probabilities).view(np.uint16)
        self._pixels += np.bincount(codes.ravel(), minlength=len(self._pixels))
        self._salt += np.bincount(codes[masks > 0], minlength=len(self._salt))

    def reliability(self) -> Reliability:
        """Predicted against observed, over all pixels."""
        codes = np.flatnonzero(self._pixels)
        values = codes.astype(np.uint16).view(np.float16).astype(np.float64)
        pixels, salt = self._pixels[codes], self._salt[codes]
        place = np.minimum((values * BINS).astype(np.int64), BINS - 1)
        bins = tuple(
            ReliabilityBin(
                pixels=int(pixels[inside].sum()),
                predicted=float(pixels[inside] @ values[inside] / pixels[inside].sum()),
                observed=float(salt[inside].sum() / pixels[inside].sum()),
            )
            for step in range(BINS)
            if (inside := place == step).any()
        )
        return Reliability(
            error=sum(row.pixels * abs(row.predicted - row.observed) for row in bins) / int(pixels.sum()),
            largest=float(values.max()),
            bins=bins,
        )
