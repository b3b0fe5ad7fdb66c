"""The learning-rate range test: what it measures, and what it suggests from that."""

import math
from collections.abc import Callable

import pytest

from saltray.config import Config
from saltray.training.lr_range_test import LRRangeTest, lr_range_test, smoothed
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

RATES = (1e-4, 1e-3, 1e-2, 1e-1)


def suggestion(*smooth: float) -> float | None:
    return LRRangeTest(RATES[: len(smooth)], smooth, smooth).suggestion


def test_the_suggestion_is_a_tenth_of_the_best_rate() -> None:
    assert suggestion(1.0, 0.9, 0.6, 0.8) == pytest.approx(1e-3)
    assert suggestion(1.0, 0.9, 0.6) == pytest.approx(1e-3)


def test_what_comes_after_the_loss_has_risen_does_not_count() -> None:
    assert suggestion(1.0, 0.9, 1.5, 0.6) == pytest.approx(1e-4)


def test_where_the_loss_never_falls_there_is_no_suggestion() -> None:
    assert suggestion(1.0, 0.99, 1.01, 1.0) is None
    assert suggestion(1.0, 1.5, 0.6) is None
    assert suggestion() is None


def test_the_average_does_not_depend_on_how_hard_a_batch_is() -> None:
    hard_and_easy = [1.5, 0.5, 1.4, 0.6]
    assert smoothed(hard_and_easy, hard_and_easy) == pytest.approx([1.0] * 4)
    learnt = [loss - 0.1 for loss in hard_and_easy]
    assert smoothed(learnt, hard_and_easy) == pytest.approx([0.9] * 4)


def test_a_sweep_sees_nothing_at_tiny_rates_and_a_fall_at_good_ones(
    thin: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    config = thin(batch_size=4, seed=2)
    tiny = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-9, high=1e-7, steps=10)
    assert max(tiny.losses) > 1.01 * min(tiny.losses)
    assert max(tiny.smooth) < 1.001 * min(tiny.smooth)
    assert tiny.suggestion is None

    good = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-4, high=3e-3, steps=60)
    assert len(good.rates) == len(good.losses) == len(good.smooth) == 60
    assert good.rates[0] == pytest.approx(1e-4)
    assert good.rates[-1] == pytest.approx(3e-3)
    assert good.suggestion is not None
    assert good.smooth[-1] < 0.9 * good.smooth[0]


def test_a_sweep_ends_where_the_loss_is_no_number(
    thin: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    config = thin(batch_size=4)
    wild = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-3, high=1e30, steps=10)
    assert 0 < len(wild.losses) < 10
    assert all(map(math.isfinite, wild.losses + wild.smooth))
