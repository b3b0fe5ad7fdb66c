"""The learning-rate schedule, by hand."""

import math

import pytest

from saltray.config import OptimConfig
from saltray.training.schedule import lr_at


def rates(total: int, warmup: float, config: OptimConfig) -> list[float]:
    return [lr_at(step, total=total, warmup=warmup, config=config) for step in range(total)]


def test_cosine_after_warm_up() -> None:
    config = OptimConfig(lr=8.0, schedule="cosine")
    half = math.sqrt(0.5)
    expected = [2, 4, 6, 8, 4 * (1 + half), 4, 4 * (1 - half), 0]
    assert rates(8, 4, config) == pytest.approx(expected, abs=1e-12)


def test_constant() -> None:
    config = OptimConfig(lr=0.5, schedule="constant")
    assert rates(5, 0, config) == [0.5] * 5
    assert rates(5, 2, config) == [0.25, 0.5, 0.5, 0.5, 0.5]


def test_warm_up_can_end_between_steps() -> None:
    config = OptimConfig(lr=1.0, schedule="constant")
    assert rates(4, 2.5, config) == [0.4, 0.8, 1.0, 1.0]


def test_run_shorter_than_its_warm_up_only_rises() -> None:
    config = OptimConfig(lr=1.0, schedule="cosine")
    assert rates(3, 6, config) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert rates(3, 3, config) == pytest.approx([1 / 3, 2 / 3, 1])
