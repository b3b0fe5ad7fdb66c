"""The competition's score against exact fractions and by hand."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from saltray.training.metrics import Counts, TileCounts
from saltray.training.process_group import ProcessGroup

THRESHOLDS = [Fraction(k, 20) for k in range(10, 20)]


def slow_score(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Fraction:
    """Mean score of tiles [N, H, W] in exact fractions, after the rules of the competition."""
    total = Fraction(0)
    for p, t in zip(predicted, truth, strict=True):
        salt = {tuple(at) for at in np.argwhere(t)}
        found = {tuple(at) for at in np.argwhere(p)}
        if not salt or not found:
            total += int(not salt and not found)
        else:
            iou = Fraction(len(salt & found), len(salt | found))
            total += Fraction(sum(iou > threshold for threshold in THRESHOLDS), 10)
    return total / len(truth)


def scores_at(
    probabilities: NDArray[np.floating] | Tensor, masks: NDArray[np.uint8] | Tensor, thresholds: list[float]
) -> list[float]:
    """Mean score of tiles at each threshold."""
    tenths = TileCounts.of(probabilities, masks, thresholds).tenths
    assert tenths.dtype == np.int64
    return [int(total) / (10 * len(tenths)) for total in tenths.sum(axis=0)]


def row(pixels: int, length: int = 20) -> Tensor:
    """A tile [1, 1, length] whose first pixels are 1."""
    return (torch.arange(length) < pixels).to(torch.uint8)[None, None]


@pytest.mark.parametrize(
    ("found", "salt", "expected"),
    [
        (10, 20, 0.0),  # IoU 1/2 is not greater than 0.50
        (11, 20, 0.1),  # 0.55 is only greater than 0.50
        (12, 20, 0.2),  # 0.60, a tie that floats get wrong
        (13, 20, 0.3),
        (19, 20, 0.9),
        (20, 20, 1.0),
        (3, 5, 0.2),  # the same tie from other integers
        (0, 0, 1.0),
        (1, 0, 0.0),
        (0, 1, 0.0),
        (20, 0, 0.0),
        (0, 20, 0.0),
    ],
)
def test_one_tile_by_hand(found: int, salt: int, expected: float) -> None:
    counts = Counts.of(row(found).float(), row(salt), 0.5)
    assert counts.score == expected
    assert counts.tiles == 1
    assert counts.iou == (min(found, salt) / max(found, salt) if found or salt else 1)
    assert counts.dice == (2 * min(found, salt) / (found + salt) if found or salt else 1)


def test_predicting_nothing_scores_the_share_of_empty_tiles() -> None:
    # By the same rule the baseline of the competition's data set is 1562 / 4000 = 0.3905.
    masks = torch.cat([row(0)] * 3 + [row(i) for i in (1, 5, 9, 13, 20)])
    assert Counts.of(torch.zeros(8, 1, 20), masks, 0.5).score == 3 / 8
    assert Counts.of(torch.ones(8, 1, 20), masks, 0.5).score == (1 + 3 / 10) / 8  # IoU 20/20 and 13/20


def test_pixel_at_the_threshold_is_not_salt() -> None:
    probabilities = torch.tensor([[[0.55, 0.5500001]]])
    masks = torch.tensor([[[0, 1]]])
    assert Counts.of(probabilities, masks, 0.55).score == 1
    assert scores_at(probabilities, masks, [0.55, 0.54]) == [1, 0]


masks_pair = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.bool_, shape) for _ in range(2)])
)


@settings(deadline=None)
@given(masks_pair)
def test_score_is_that_of_exact_fractions(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> None:
    predicted, truth = pair
    counts = Counts.of(torch.from_numpy(predicted).float(), torch.from_numpy(truth), 0.5)
    assert counts.score == float(slow_score(predicted, truth))
    both, either = int((predicted & truth).sum()), int((predicted | truth).sum())
    assert counts.iou == (both / either if either else 1)
    assert math.isclose(counts.dice, 2 * both / (predicted.sum() + truth.sum()) if either else 1)


@settings(deadline=None)
@given(masks_pair, st.lists(st.sampled_from([i / 8 for i in range(9)]), min_size=1, max_size=6))
def test_many_thresholds_equal_one_at_a_time(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]], thresholds: list[float]
) -> None:
    noise, truth = pair
    levels = np.random.default_rng(int(noise.sum())).integers(0, 9, truth.shape) / 8
    expected = [float(slow_score(levels > threshold, truth)) for threshold in thresholds]
    assert scores_at(levels, truth.astype(np.uint8), thresholds) == expected
    assert scores_at(torch.from_numpy(levels).half(), torch.from_numpy(truth), thresholds) == expected


def test_many_thresholds_over_more_tiles_than_one_chunk() -> None:
    draw = np.random.default_rng(1)
    masks = (draw.random((600, 6, 7)) < draw.random((600, 1, 1))).astype(np.uint8)
    probabilities = np.clip(masks * 0.4 + draw.random(masks.shape) * 0.6, 0, 1).astype(np.float32)
    thresholds = np.linspace(0.05, 0.95, 20).tolist()
    expected = [
        Counts.of(torch.from_numpy(probabilities), torch.from_numpy(masks), threshold).score for threshold in thresholds
    ]
    assert len(set(expected)) > 10
    assert scores_at(probabilities, masks, thresholds) == expected


def test_pixels_of_each_tile_are_counted() -> None:
    probabilities = torch.tensor([[[0.9, 0.6, 0.2, 0.1]], [[0.3, 0.3, 0.0, 0.7]], [[0.0, 0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 1, 0, 0]]])
    counts = TileCounts.of(probabilities, masks, (0.5, 0.15, 0.5))  # in any order, twice if need be
    assert counts.salt.tolist() == [3, 0, 1]
    assert counts.predicted.tolist() == [[2, 3, 2], [1, 3, 1], [0, 0, 0]]
    assert counts.hits.tolist() == [[2, 3, 2], [0, 0, 0], [0, 0, 0]]
    assert counts.tenths.tolist() == [[4, 10, 4], [0, 0, 0], [0, 0, 0]]  # 2/3 exceeds 0.50, 0.55, 0.60 and 0.65
    assert counts.tenths_if_empty.tolist() == [0, 10, 0]


def test_counts_of_parts_add_up() -> None:
    draw = np.random.default_rng(2)
    predicted, truth = draw.random((2, 30, 4, 4)) < 0.4
    whole = Counts.of(torch.from_numpy(predicted).float(), torch.from_numpy(truth), 0.5)
    total = Counts.zero(torch.device("cpu"))
    for part in (slice(0, 7), slice(7, 8), slice(8, 30)):
        total += Counts.of(torch.from_numpy(predicted[part]).float(), torch.from_numpy(truth[part]), 0.5)
    assert torch.equal(total.sums, whole.sums)
    assert torch.equal(total.all_reduce(ProcessGroup.single()).sums, whole.sums)
    assert total.tiles == 30


@pytest.mark.parametrize("rank", ["0", "1"])
def test_all_reduce_adds_the_counts_of_all_ranks(two_ranks: dict[str, dict[str, Any]], rank: str) -> None:
    assert two_ranks["alone"]["counts"].tolist() == list(range(13))
    assert two_ranks[rank]["counts"].tolist() == [2 * count + 1 for count in range(13)]
