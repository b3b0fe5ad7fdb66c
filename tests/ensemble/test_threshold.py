"""The threshold, calculated by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saltray.ensemble.threshold import GRID, choose_threshold


def tiles(*rows: list[float]) -> NDArray[np.float32]:
    """Tiles of 1x4 pixels, [N, 1, 4]."""
    return np.array(rows, np.float32)[:, None]


def masks(*rows: list[int]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)[:, None]


def test_the_best_score_wins() -> None:
    # Of three pixels of salt one is weak: above 0.7 it is lost, and an IoU of 2/3 exceeds 0.50, 0.55, 0.60 and 0.65.
    # Below 0.3 the empty pixel is taken as salt, and 3/4 exceeds 0.70 as well.
    choice = choose_threshold(tiles([0.9, 0.9, 0.7, 0.3]), masks([1, 1, 1, 0]), (0.2, 0.4, 0.8))
    assert choice.thresholds == (0.2, 0.4, 0.8)
    assert choice.scores == (0.5, 1.0, 0.4)
    assert (choice.threshold, choice.score) == (0.4, 1.0)


def test_tiles_are_averaged() -> None:
    # The empty tile is right (1) only where none of its pixels is salt; the other one only where both are.
    choice = choose_threshold(
        tiles([0.6, 0.1, 0.1, 0.1], [0.9, 0.5, 0.0, 0.0], [0.9, 0.5, 0.0, 0.0]),
        masks([0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]),
        (0.4, 0.55, 0.65),
    )
    # An IoU of 1/2 does not exceed 0.50.
    assert choice.scores == pytest.approx((2 / 3, 0, 1 / 3))
    assert choice.threshold == 0.4


@pytest.mark.parametrize(
    ("thresholds", "nearest"),
    [((0.2, 0.3, 0.4), 0.4), ((0.6, 0.7, 0.8), 0.6), ((0.2, 0.46, 0.52, 0.8), 0.52), ((0.8, 0.5, 0.2), 0.5)],
)
def test_ties_go_to_the_one_nearest_to_a_half(thresholds: tuple[float, ...], nearest: float) -> None:
    choice = choose_threshold(tiles([0.9, 0.9, 0.1, 0.1]), masks([1, 1, 0, 0]), thresholds)
    assert set(choice.scores) == {1.0}
    assert choice.threshold == nearest


def test_a_better_score_beats_nearness() -> None:
    choice = choose_threshold(tiles([0.9, 0.9, 0.79, 0.1]), masks([1, 1, 0, 0]), (0.5, 0.8))
    assert (choice.threshold, choice.score) == (0.8, 1.0)


def test_half_precision_is_accepted() -> None:
    probabilities = tiles([0.9, 0.9, 0.1, 0.1]).astype(np.float16)
    choice = choose_threshold(probabilities, masks([1, 1, 0, 0]))
    assert choice.thresholds == GRID
    assert (choice.threshold, choice.score) == (0.5, 1.0)


def test_the_grid_runs_from_a_fifth_to_four_fifths() -> None:
    assert (GRID[0], GRID[15], GRID[-1], len(GRID)) == (0.2, 0.5, 0.8, 31)
