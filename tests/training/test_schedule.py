"""The schedules of learning rate and loss, by hand."""

import math

import pytest

from saltray.config import Config, LateLossConfig, LossConfig, OptimConfig
from saltray.training.schedule import loss_at, lr_at


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


def test_the_loss_stays_as_it_is_unless_another_follows() -> None:
    config = Config(data="d")
    assert all(loss_at(epoch, config) == LossConfig(bce=1, dice=1) for epoch in (0, 59))


def test_the_loss_changes_at_once() -> None:
    early = LossConfig(bce=1, dice=0.5, focal_gamma=3, sides=0.2)
    config = Config(data="d", loss=early, late_loss=LateLossConfig(after=2, dice=0.25, lovasz=2))
    late = LossConfig(bce=0, dice=0.25, lovasz=2, focal_gamma=3, sides=0.2)
    assert [loss_at(epoch, config) for epoch in range(5)] == [early, early, late, late, late]


def test_the_loss_changes_in_equal_steps() -> None:
    config = Config(data="d", late_loss=LateLossConfig(after=1, ramp=3, dice=3, lovasz_elu=1))
    weights = [loss_at(epoch, config).weights for epoch in range(6)]
    assert [each["bce"] for each in weights] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [each["dice"] for each in weights] == [1, 1.5, 2, 2.5, 3, 3]
    assert [each["lovasz_elu"] for each in weights] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert {each["lovasz"] + each["focal"] for each in weights} == {0}
