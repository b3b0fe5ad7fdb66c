"""The learning-rate range test: what it measures, where it stops, and what it suggests."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saltray.config import AugmentConfig, Config, LateLossConfig, LossConfig, OptimConfig
from saltray.data.tiles import LabelledTiles
from saltray.models.network import Output
from saltray.training.lr_range_test import DIVERGED, LRRangeTest, lr_range_test, smoothed
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

RATES = (1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize(
    ("smooth", "suggestion"),
    [
        ((1.0, 0.9, 0.6, 0.8), 1e-3),
        ((1.0, 0.9, 0.6), 1e-3),
        ((1.0, 0.9, 1.01, 0.6), 1e-2),  # a rise within the tolerance
        ((1.0, 0.9, 1.5, 0.6), 1e-4),  # a low loss after a rise does not count
        ((1.0, 0.99, 1.01, 1.0), None),
        ((1.0, 1.5, 0.6), None),
        ((), None),
    ],
)
def test_suggestion_is_a_tenth_of_the_best_rate(smooth: tuple[float, ...], suggestion: float | None) -> None:
    result = LRRangeTest(RATES[: len(smooth)], smooth, smooth)
    assert result.suggestion == (suggestion and pytest.approx(suggestion))


def test_average_does_not_depend_on_the_difficulty_of_the_batches() -> None:
    references = [1.5, 0.5, 1.4, 0.6]
    assert smoothed(references, references) == pytest.approx([1.0] * 4)
    improved = [loss - 0.1 for loss in references]
    assert smoothed(improved, references) == pytest.approx([0.9] * 4)


def test_tiny_rates_change_nothing_and_good_ones_lower_the_loss(
    make_config: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config(batch_size=4, seed=2)
    tiny = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-9, high=1e-7, steps=10)
    assert max(tiny.losses) > 1.01 * min(tiny.losses)
    assert max(tiny.smooth) < 1.001 * min(tiny.smooth)
    assert tiny.suggestion is None

    good = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-4, high=3e-3, steps=60)
    assert len(good.rates) == len(good.losses) == len(good.smooth) == 60
    assert good.rates[0] == pytest.approx(1e-4)
    assert good.rates[-1] == pytest.approx(3e-3)
    assert good.smooth[-1] < 0.9 * good.smooth[0]
    assert good.suggestion == good.rates[good.smooth.index(min(good.smooth))] / 10


class Constant(nn.Module):
    """The same logit for every pixel; the best is 0 where half of the pixels are salt."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return images * 0 + self.logit


def test_stops_where_the_loss_diverges_and_suggests_a_rate_below(
    make_config: Callable[..., Config], still: AugmentConfig, single: ProcessGroup
) -> None:
    config = make_config(augment=still, batch_size=2, loss=LossConfig(dice=0), optim=OptimConfig(clip_norm=0))
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[:, :32] = 1
    train = TileTensors.create(LabelledTiles(("a", "b"), np.zeros_like(masks), masks), single.device)
    model = Constant()
    state = FitState(model, copy.deepcopy(model), torch.optim.SGD(model.parameters()))
    result = lr_range_test(state, train, config, single, low=1e-2, high=1e4, steps=60)
    assert len(result.losses) < 60
    assert result.losses[0] == pytest.approx(math.log1p(math.exp(-2)) + 1)
    assert min(result.losses) == pytest.approx(math.log(2), rel=0.01)
    *before, last = result.smooth
    assert last > DIVERGED * min(before) > max(before)
    assert result.suggestion is not None
    assert 0.1 < 10 * result.suggestion < result.rates[-1]


def test_later_weights_of_the_loss_are_ignored(
    make_config: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    def losses(**settings: Any) -> tuple[float, ...]:
        config = make_config(batch_size=20, **settings)  # one step per epoch
        state = FitState.create(config, single)
        return lr_range_test(state, tensors, config, single, low=1e-5, high=1e-4, steps=3).losses

    assert losses(late_loss=LateLossConfig(after=1, lovasz=5)) == losses()


class Deep(Constant):
    """The same logits twice, and a head that is certain of salt."""

    def forward(self, images: Tensor) -> Output:
        logits = super().forward(images)
        return Output(logits, (logits,), logits[:, 0, 0, 0] + 100)


def test_deep_supervision_is_part_of_the_loss(
    make_config: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    loss = LossConfig(dice=0, sides=0, has_salt=1)
    config = make_config(batch_size=4, loss=loss)
    model = Deep()
    state = FitState(model, copy.deepcopy(model), torch.optim.SGD(model.parameters()))
    result = lr_range_test(state, tensors, config, single, low=1e-9, high=1e-8, steps=5)
    empty_tiles = 5 / 20
    assert min(result.smooth) > 102 * empty_tiles
    # Batches differ in their empty tiles, for the untrained network too.
    assert max(result.losses) > min(result.losses) + 20
    assert max(result.smooth) < 1.001 * min(result.smooth)


def test_stops_where_the_loss_is_not_finite(
    make_config: Callable[..., Config], tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config(batch_size=4)
    result = lr_range_test(FitState.create(config, single), tensors, config, single, low=1e-3, high=1e30, steps=10)
    assert 0 < len(result.losses) < 10
    assert all(map(math.isfinite, result.losses + result.smooth))


def test_two_ranks_get_the_result_of_one(two_ranks: dict[str, dict[str, Any]]) -> None:
    alone, first, second = (two_ranks[place]["range test"] for place in ("alone", "0", "1"))
    assert first == second
    assert first["rates"] == alone["rates"]
    assert len(first["losses"]) == 5
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert first["smooth"] == pytest.approx(alone["smooth"], rel=1e-3)
