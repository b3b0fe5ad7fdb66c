"""The loop on one rank: it learns, resumes to the bit, stops when it must."""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saltray.config import AugmentConfig, Config, OptimConfig
from saltray.data.tiles import Tiles
from saltray.errors import ConfigError, DivergedError
from saltray.training.engine import EpochMetrics, evaluate, fit
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]
STILL = AugmentConfig(flip=0, rotate=0, scale=0, shift=0, brightness=0, contrast=0)


def untimed(metrics: EpochMetrics) -> EpochMetrics:
    return dataclasses.replace(metrics, seconds=0, images_per_second=0)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def assert_same(a: Any, b: Any) -> None:
    """Equal to the bit, through dicts and lists."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_one_tile_is_learnt_by_heart(thin: ConfigMaker, tiles: Tiles, single: ProcessGroup) -> None:
    optim = OptimConfig(lr=5e-3, warmup_epochs=10, ema_decay=0.8)
    # A decoder of four channels is born dead with some seeds.
    config = thin(augment=STILL, optim=optim, epochs=80, batch_size=1, eval_every=80, seed=2)
    one = TileTensors.create(tiles.select(np.array([1])), single.device)
    *_, last = fit(FitState.create(config, single), one, one, config, single)
    assert last.iou is not None
    assert last.iou > 0.95
    assert last.score == 1


def test_resumed_is_as_uninterrupted(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = thin(epochs=3)
    whole = FitState.create(config, single)
    history = [untimed(metrics) for metrics in fit(whole, tensors, tensors, config, single)]

    first = FitState.create(config, single)
    kept = None
    for _ in fit(first, tensors, tensors, config, single):
        kept = through_a_file(first.state_dict())
        break
    assert kept is not None
    other_seed = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=9))
    second = FitState.create(other_seed, single)
    second.load_state_dict(kept)
    assert (second.epoch, second.step) == (1, 3)
    assert [untimed(metrics) for metrics in fit(second, tensors, tensors, config, single)] == history[1:]
    assert_same(whole.state_dict(), second.state_dict())
    assert list(fit(second, tensors, tensors, config, single)) == []


def test_the_order_of_the_arrays_does_not_matter(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = thin(epochs=1)
    turned = TileTensors(tensors.images.flip(0), tensors.masks.flip(0), tensors.keys.flip(0))
    results = []
    for train in (tensors, turned):
        state = FitState.create(config, single)
        results.append([untimed(metrics) for metrics in fit(state, train, tensors, config, single)])
    assert results[0] == results[1]


def test_every_seed_trains_otherwise(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    losses: set[float] = set()
    for seed in (0, 1):
        config = thin(epochs=1, seed=seed)
        # The same network, so that order and augmentation alone make the difference.
        state = FitState.create(thin(), single)
        losses.update(metrics.loss for metrics in fit(state, tensors, tensors, config, single))
    assert len(losses) == 2


def test_metrics_of_an_epoch(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = thin(epochs=3, eval_every=2, optim=OptimConfig(lr=1e-3, warmup_epochs=2))
    state = FitState.create(config, single)
    history = list(fit(state, tensors, tensors, config, single))
    assert [metrics.epoch for metrics in history] == [1, 2, 3]
    assert [metrics.score is None for metrics in history] == [True, False, False]
    assert [metrics.valid_loss is None for metrics in history] == [True, False, False]
    assert [metrics.lr for metrics in history] == pytest.approx([5e-4, 1e-3, 0], abs=1e-12)
    assert (state.epoch, state.step) == (3, 9)
    assert all(metrics.images_per_second > 0 and metrics.seconds > 0 for metrics in history)
    assert not state.ema.training
    assert not any(p.requires_grad or p.grad is not None for p in state.ema.parameters())


def test_a_learning_rate_too_high_is_named(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = thin(optim=OptimConfig(lr=1e30, warmup_epochs=0, schedule="constant", clip_norm=0))
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2 of 3, at a learning rate of 1e\+30; lower optim.lr"):
        list(fit(FitState.create(config, single), tensors, tensors, config, single))


def test_weights_spoilt_by_the_last_step_are_found_in_validation(
    thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    optim = OptimConfig(lr=1e30, warmup_epochs=0, schedule="constant", ema_decay=0)
    config = thin(optim=optim, epochs=3, batch_size=20)  # one step an epoch, whose loss is that before it
    with pytest.raises(DivergedError, match=r"the validation loss .* after epoch 1; lower optim.lr \(it is 1e\+30\)"):
        list(fit(FitState.create(config, single), tensors, tensors, config, single))


class Spike(nn.Module):
    """Finite logits whose gradient is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * 0 + self.level.sqrt()


def test_an_infinite_gradient_is_found_though_the_loss_is_finite(
    thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = thin(epochs=1, batch_size=20)
    with pytest.raises(DivergedError, match="in epoch 1, step 1 of 1"):
        list(fit(FitState.create(config, single, Spike()), tensors, tensors, config, single))


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_one_step_of_plain_arithmetic(thin: ConfigMaker, tiles: Tiles, single: ProcessGroup, clip_norm: float) -> None:
    """A network of one weight, one step: the loss, the clipped gradient and Adam's first move by hand."""

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.full((1, 1), 2.0))  # a matrix, so that the decay touches it

        def forward(self, images: Tensor) -> Tensor:
            return images * self.gain

    optim = OptimConfig(lr=0.1, warmup_epochs=0, schedule="constant", clip_norm=clip_norm, weight_decay=0.3)
    config = thin(augment=STILL, optim=optim, epochs=1, batch_size=1, dice=0)
    white = Tiles(("a",), np.full((1, 64, 64), 255, np.uint8), np.zeros((1, 64, 64), np.uint8))
    state = FitState.create(config, single, Gain())
    train = TileTensors.create(white, single.device)
    (metrics,) = fit(state, train, train, config, single)
    assert metrics.loss == pytest.approx(np.log1p(np.exp(2)), rel=1e-6)
    weight = 2 * (1 - 0.1 * 0.3) - 0.1  # AdamW: decay, then the sign of the gradient times lr
    assert float(state.model.gain.detach()) == pytest.approx(weight, rel=1e-5)
    average = 0.1 * 2 + 0.9 * weight
    assert float(state.ema.gain) == pytest.approx(average, rel=1e-5)
    assert metrics.valid_loss == pytest.approx(np.log1p(np.exp(average)), rel=1e-5)
    assert metrics.score == 0
    moment = float(state.optimizer.state[state.model.gain]["exp_avg"])
    gradient = 1 / (1 + np.exp(-2))
    assert moment == pytest.approx(0.1 * min(gradient, clip_norm or 1), rel=1e-4)


def test_validation_counts_the_tile_without_its_padding(thin: ConfigMaker, tiles: Tiles, single: ProcessGroup) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * 0 + 0.1  # probability 0.525: salt everywhere

    everything = evaluate(Constant(), TileTensors.create(tiles, single.device), thin(dice=0), single)
    assert tiles.masks is not None
    salt = int(tiles.masks.sum()) / tiles.masks.size
    assert everything["score"] == 0  # no tile is more than half salt
    assert everything["iou"] == pytest.approx(salt)
    assert everything["dice"] == pytest.approx(2 * salt / (1 + salt))
    assert everything["valid_loss"] == pytest.approx(np.log1p(np.exp(0.1)) - 0.1 * salt, rel=1e-6)


def test_impossible_settings_are_refused(thin: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = thin(batch_size=7)
    pair = ProcessGroup(rank=0, size=2, device=single.device)
    state = FitState.create(config, single)
    with pytest.raises(ConfigError, match=r"train.batch_size 7 does not divide among 2 ranks; use 8"):
        next(fit(state, tensors, tensors, config, pair))
    large = TileTensors(torch.zeros(20, 101, 101, dtype=torch.uint8), tensors.masks, tensors.keys)
    with pytest.raises(ConfigError, match=r"101x101 pixels are larger than train.input_size 64"):
        next(fit(state, large, tensors, config, single))
