"""Intervals, strata and reliability in numbers worked by hand."""

from itertools import product
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from saltray.training.evaluation import Interval, Reliability
from saltray.training.scores import (
    RESAMPLES,
    PixelsByProbability,
    bootstrap_interval,
    bootstrap_sums,
    paired_difference,
    score_by_stratum,
    strata_of,
)

# The bootstrap


def test_two_tiles_have_three_resamples() -> None:
    # Of scores 0 and 1 a resample has the mean 0, 1/2 or 1, with probabilities of 1/4, 1/2 and 1/4.
    sums = bootstrap_sums(np.array([0, 10]))
    assert len(sums) == RESAMPLES
    shares = [(sums == total).mean() for total in (0, 10, 20)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert sum(shares) == 1
    assert bootstrap_interval(np.array([0, 10])) == Interval(low=0.0, high=1.0)


def test_resamples_are_distributed_as_drawn_tiles() -> None:
    tenths = np.array([0, 0, 3, 10, 10])
    sums = bootstrap_sums(tenths, 200_000)
    exact = np.array([sum(drawn) for drawn in product(tenths.tolist(), repeat=5)])  # all 5^5 resamples
    for total in np.unique(exact).tolist():
        assert (sums == total).mean() == pytest.approx((exact == total).mean(), abs=0.005)


def test_the_interval_of_many_tiles() -> None:
    # Of 1,000 tiles half are right: the count is binomial, with a standard deviation of sqrt(1000 / 4) = 15.8.
    found = bootstrap_interval(np.repeat([0, 10], 500))
    cumulated = np.cumsum([comb(1000, k) / 2**1000 for k in range(1001)])
    low, high = (np.searchsorted(cumulated, share) / 1000 for share in (0.025, 0.975))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.003), pytest.approx(high, abs=0.003))


def test_the_same_scores_have_the_same_interval() -> None:
    tenths = np.random.default_rng(0).integers(0, 11, 50)
    assert bootstrap_interval(tenths) == bootstrap_interval(tenths[::-1])
    assert bootstrap_interval(np.full(50, 7)) == Interval(low=0.7, high=0.7)


def test_the_same_tiles_of_both_are_drawn() -> None:
    # The second is better by a tenth on every tile: however the scores vary, the difference does not.
    first = np.random.default_rng(1).integers(0, 10, 30)
    found = paired_difference("all", first, first + 1)
    assert (found.name, found.tiles) == ("all", 30)
    assert found.difference == pytest.approx(0.1)
    assert (found.interval.low, found.interval.high, found.probability) == (0.1, 0.1, 1.0)
    assert (found.first, found.second) == (pytest.approx(first.mean() / 10), pytest.approx((first + 1).mean() / 10))


def test_a_resample_without_a_difference_counts_half() -> None:
    assert paired_difference("all", np.array([5, 5]), np.array([5, 5])).probability == 0.5
    # Differences of -1 and +1: the sum is negative, zero and positive in 1/4, 1/2 and 1/4 of the resamples.
    found = paired_difference("all", np.array([5, 5]), np.array([4, 6]))
    assert found.probability == pytest.approx(0.5, abs=0.01)
    assert (found.interval.low, found.interval.high) == (-0.1, 0.1)
    # Differences of 0 and +1: zero in 1/4, positive in 3/4: 3/4 + 1/8.
    found = paired_difference("all", np.array([5, 5]), np.array([5, 6]))
    assert found.probability == pytest.approx(7 / 8, abs=0.01)


# Strata


PIXELS = 100


def covered(*pixels: int) -> NDArray[np.int64]:
    """Tiles of 100 pixels with so much salt."""
    return np.array(pixels)


def test_deciles_of_the_tiles_with_salt() -> None:
    strata = list(strata_of(covered(0, *range(1, 21), 0), PIXELS))
    assert [name for name, _ in strata[:3]] == ["no salt", "1.0 to 2.0 % salt", "3.0 to 4.0 % salt"]
    assert [int(inside.sum()) for _, inside in strata] == [2] * 11
    assert (sum(inside.astype(int) for _, inside in strata) == 1).all()  # each tile once


def test_tiles_of_equal_coverage_are_together() -> None:
    strata = list(strata_of(covered(5, 5, 5, 5, 5, 5, 5, 5, 5, 50, 100, 100), PIXELS))
    assert [(name, int(inside.sum())) for name, inside in strata] == [
        ("5.0 to 5.0 % salt", 9),
        ("50.0 to 50.0 % salt", 1),
        ("100.0 to 100.0 % salt", 2),
    ]


def test_tiles_without_salt_alone() -> None:
    ((name, inside),) = strata_of(covered(0, 0), PIXELS)
    assert (name, inside.tolist()) == ("no salt", [True, True])


def test_scores_by_stratum() -> None:
    first, second = score_by_stratum(np.array([10, 0, 4]), covered(0, 0, 30), PIXELS)
    assert (first.name, first.tiles, first.score, first.interval) == ("no salt", 2, 0.5, Interval(low=0.0, high=1.0))
    assert (second.name, second.tiles, second.score) == ("30.0 to 30.0 % salt", 1, 0.4)


# Reliability


def reliability_of(probabilities: NDArray[np.float16], masks: NDArray[np.uint8]) -> Reliability:
    """Of tiles that are counted one by one."""
    pixels = PixelsByProbability()
    for probability, mask in zip(probabilities, masks, strict=True):
        pixels.add(probability[None], mask[None])
    return pixels.reliability()


def test_reliability_by_hand() -> None:
    # In [0.25, 0.3): four pixels of 0.25, one of them salt. In [0.5, 0.55): two of 0.5, both salt. In [0.95, 1]: one
    # of 1, which is none.
    probabilities = np.array([[[0.25, 0.25, 0.25, 0.25]], [[0.5, 0.5, 1.0, 0.0]]], np.float16)
    masks = np.array([[[1, 0, 0, 0]], [[1, 1, 0, 0]]], np.uint8)
    found = reliability_of(probabilities, masks)
    assert [(row.pixels, row.predicted, row.observed) for row in found.bins] == [
        (1, 0.0, 0.0),
        (4, 0.25, 0.25),
        (2, 0.5, 1.0),
        (1, 1.0, 0.0),
    ]
    assert found.largest == 1.0
    assert found.error == pytest.approx((2 * 0.5 + 1 * 1.0) / 8)


def test_right_probabilities_have_no_error() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.random((20, 100, 100)).astype(np.float16)
    masks = (draw.random(probabilities.shape) < probabilities).astype(np.uint8)
    found = reliability_of(probabilities, masks)
    assert found.error < 0.01
    assert len(found.bins) == 20
    assert sum(row.pixels for row in found.bins) == probabilities.size
    assert reliability_of(probabilities, 1 - masks).error > 0.4
