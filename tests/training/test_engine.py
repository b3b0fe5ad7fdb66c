"""The training loop: it learns, resumes bit for bit, equals itself on two ranks, and stops when it has to."""

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from saltray.config import AugmentConfig, Compile, Config, LateLossConfig, LossConfig, OptimConfig
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import ConfigError, DivergedError
from saltray.models.network import Output
from saltray.training.ema import WeightAverager
from saltray.training.engine import evaluate, fit, rank_slice, train_step, wrap_ddp
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.losses import batch_loss
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]
TwoRanks = dict[str, dict[str, Any]]
BCE = LossConfig(dice=0)


def untimed(metrics: EpochMetrics) -> EpochMetrics:
    return dataclasses.replace(metrics, seconds=0, images_per_second=0)


def assert_same(a: Any, b: Any) -> None:
    """Equal bit for bit, through dicts and lists."""
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


def test_one_tile_is_overfitted(
    make_config: ConfigMaker, still: AugmentConfig, tiles: LabelledTiles, single: ProcessGroup
) -> None:
    optim = OptimConfig(lr=5e-3, warmup_epochs=10, ema_decay=0.8)
    # With some seeds all four channels of a decoder block start with dead ReLUs.
    config = make_config(augment=still, optim=optim, epochs=80, batch_size=1, eval_every=80, seed=2)
    one = TileTensors.create(tiles.select(np.array([1])), single.device)
    *_, last = fit(FitState.create(config, single), one, one, config, single)
    assert last.iou is not None
    assert last.iou > 0.95
    assert last.score == 1


@pytest.mark.parametrize("late_loss", [LateLossConfig(), LateLossConfig(after=1, ramp=1, lovasz=1)])
def test_resumed_run_equals_an_uninterrupted_one(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup, late_loss: LateLossConfig
) -> None:
    config = make_config(epochs=3, late_loss=late_loss)
    whole, interrupted, resumed = (FitState.create(config, single) for _ in range(3))
    history = [untimed(metrics) for metrics in fit(whole, tensors, tensors, config, single)]
    next(fit(interrupted, tensors, tensors, config, single))
    resumed.load_state_dict(interrupted.state_dict())
    assert (resumed.epoch, resumed.step) == (1, 3)
    assert [untimed(metrics) for metrics in fit(resumed, tensors, tensors, config, single)] == history[1:]
    assert_same(whole.state_dict(), resumed.state_dict())
    assert list(fit(resumed, tensors, tensors, config, single)) == []


def test_results_do_not_depend_on_the_order_of_the_tiles(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config(epochs=1)
    flipped = TileTensors(tensors.pool, tensors.positions.flip(0))
    first, second = (
        [untimed(metrics) for metrics in fit(FitState.create(config, single), train, tensors, config, single)]
        for train in (tensors, flipped)
    )
    assert first == second


def test_every_seed_gives_another_order_and_augmentation(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    losses: set[float] = set()
    for seed in (0, 1):
        config = make_config(epochs=1, seed=seed)
        state = FitState.create(make_config(), single)  # the same initial weights
        losses.update(metrics.loss for metrics in fit(state, tensors, tensors, config, single))
    assert len(losses) == 2


def test_metrics_of_each_epoch(make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = make_config(epochs=3, eval_every=2, optim=OptimConfig(lr=1e-3, warmup_epochs=2))
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


def test_a_cycle_restarts_the_rate_and_the_average_and_ends_with_a_validation(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged: list[int] = []
    update = WeightAverager.update

    def watched(self: WeightAverager, step: int) -> None:
        averaged.append(step)
        update(self, step)

    monkeypatch.setattr(WeightAverager, "update", watched)
    optim = OptimConfig(lr=1e-3, warmup_epochs=0, schedule="cycles", cycles=2)
    config = make_config(epochs=5, eval_every=3, optim=optim)
    state = FitState.create(config, single)
    history = list(fit(state, tensors, tensors, config, single))
    assert averaged == [*range(6), *range(9)]
    assert [metrics.score is None for metrics in history] == [True, False, False, True, False]
    assert [metrics.lr for metrics in history] == pytest.approx([5e-4, 0, 7.5e-4, 2.5e-4, 0], abs=1e-12)


def test_diverging_training_is_stopped_with_its_step_and_learning_rate(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config(optim=OptimConfig(lr=1e30, warmup_epochs=0, schedule="constant", clip_norm=0))
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2 of 3, at a learning rate of 1e\+30; lower optim.lr"):
        list(fit(FitState.create(config, single), tensors, tensors, config, single))


def test_divergence_in_the_last_step_is_found_by_the_validation(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    optim = OptimConfig(lr=1e30, warmup_epochs=0, schedule="constant", ema_decay=0)
    config = make_config(optim=optim, epochs=3, batch_size=20)  # one step per epoch, whose loss precedes its update
    with pytest.raises(DivergedError, match=r"the validation loss .* after epoch 1; lower optim.lr \(it is 1e\+30\)"):
        list(fit(FitState.create(config, single), tensors, tensors, config, single))


class InfiniteGradient(nn.Module):
    """Finite logits with an infinite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * 0 + self.level.sqrt()


def test_an_infinite_gradient_of_a_finite_loss_is_found(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config(epochs=1, batch_size=20)
    with pytest.raises(DivergedError, match="in epoch 1, step 1 of 1"):
        list(fit(FitState.create(config, single, InfiniteGradient()), tensors, tensors, config, single))


class Gain(nn.Module):
    """Logits that are the input times one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((1, 1), 2.0))  # a matrix, so that weight decay applies

    def forward(self, images: Tensor) -> Tensor:
        return images * self.gain


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_one_epoch_by_hand(
    make_config: ConfigMaker, still: AugmentConfig, single: ProcessGroup, clip_norm: float
) -> None:
    """The loss, the clipped gradient, AdamW's first step and the validation of a network with one weight."""
    optim = OptimConfig(lr=0.1, warmup_epochs=0, schedule="constant", clip_norm=clip_norm, weight_decay=0.3)
    config = make_config(augment=still, optim=optim, epochs=1, batch_size=1, loss=BCE)
    white = LabelledTiles(("a",), np.full((1, 64, 64), 255, np.uint8), np.zeros((1, 64, 64), np.uint8))
    model = Gain()
    state = FitState.create(config, single, model)
    train = TileTensors.create(white, single.device)
    (metrics,) = fit(state, train, train, config, single)
    assert metrics.loss == pytest.approx(np.log1p(np.exp(2)), rel=1e-6)
    weight = 2 * (1 - 0.1 * 0.3) - 0.1  # decoupled weight decay, then lr times the sign of the gradient
    assert float(model.gain.detach()) == pytest.approx(weight, rel=1e-5)
    average = 0.1 * 2 + 0.9 * weight
    assert float(state.ema.get_parameter("gain")) == pytest.approx(average, rel=1e-5)
    assert metrics.valid_loss == pytest.approx(np.log1p(np.exp(average)), rel=1e-5)
    assert metrics.score == 0
    moment = float(state.optimizer.state[model.gain]["exp_avg"])
    gradient = 1 / (1 + np.exp(-2))
    assert moment == pytest.approx(0.1 * min(gradient, clip_norm or 1), rel=1e-4)


def test_each_epoch_is_trained_and_validated_with_its_own_loss(
    make_config: ConfigMaker, still: AugmentConfig, single: ProcessGroup
) -> None:
    """A network that barely changes: logit 2 on an empty white tile, whose Lovasz hinge is 3."""
    optim = OptimConfig(lr=1e-9, warmup_epochs=0, schedule="constant", weight_decay=0)
    late = LateLossConfig(after=1, ramp=1, lovasz=10)
    config = make_config(augment=still, optim=optim, epochs=3, batch_size=1, loss=BCE, late_loss=late)
    white = LabelledTiles(("a",), np.full((1, 64, 64), 255, np.uint8), np.zeros((1, 64, 64), np.uint8))
    tile = TileTensors.create(white, single.device)
    history = list(fit(FitState.create(config, single, Gain()), tile, tile, config, single))
    bce = math.log1p(math.exp(2))
    expected = [bce, (bce + 30) / 2, 30]
    assert [metrics.loss for metrics in history] == pytest.approx(expected, rel=1e-6)
    assert [metrics.valid_loss for metrics in history] == pytest.approx(expected, rel=1e-6)


class Deep(nn.Module):
    """One weight for the logits, one for a side output, one for whether there is salt."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor | Output:
        logits = images * self.gains[0]
        if not self.training:
            return logits
        return Output(logits, (images * self.gains[1],), images[:, 0, 0, 0] * self.gains[2])


def test_deep_supervision_trains_all_outputs_and_validates_one(
    make_config: ConfigMaker, still: AugmentConfig, single: ProcessGroup
) -> None:
    optim = OptimConfig(lr=0.1, warmup_epochs=0, schedule="constant", weight_decay=0)
    loss = LossConfig(dice=0, sides=0.5, has_salt=0.25)
    config = make_config(augment=still, optim=optim, epochs=1, batch_size=2, loss=loss)
    white = LabelledTiles(("a", "b"), np.full((2, 64, 64), 255, np.uint8), np.zeros((2, 64, 64), np.uint8))
    white.masks[0] = 1
    tiles = TileTensors.create(white, single.device)
    state = FitState.create(config, single, Deep())
    (metrics,) = fit(state, tiles, tiles, config, single)
    # The side output learns from the tile with salt alone; the others have gradients that cancel.
    assert state.model.get_parameter("gains").tolist() == pytest.approx([0, 0.1, 0], abs=1e-6)
    assert metrics.loss == pytest.approx((1 + 0.5 / 2 + 0.25) * math.log(2))
    assert metrics.valid_loss == pytest.approx(math.log(2))


def test_train_step_uses_the_given_learning_rate_and_leaves_no_gradient(make_config: ConfigMaker) -> None:
    model = Gain()
    optimizer = torch.optim.SGD(model.parameters(), lr=99)
    images = torch.ones(2, 1, 4, 4)
    config = make_config(optim=OptimConfig(clip_norm=0))
    loss_of = partial(batch_loss, config=BCE)
    loss = train_step(
        model, optimizer, GradScaler("cpu", enabled=False), images, torch.zeros_like(images), config, loss_of, lr=0.5
    )
    assert float(loss) == pytest.approx(math.log1p(math.exp(2)))
    assert float(model.gain.detach()) == pytest.approx(2 - 0.5 / (1 + math.exp(-2)))
    assert model.gain.grad is None


def test_a_scaled_loss_gives_the_same_weights(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config()
    plain, scaled = (FitState.create(config, single) for _ in range(2))
    scaled.scaler = GradScaler("cpu", init_scale=2.0**10)
    for state in (plain, scaled):
        list(fit(state, tensors, None, config, single))
    assert scaled.scaler.get_scale() == 2**10
    assert_same(plain.model.state_dict(), scaled.model.state_dict())  # powers of 2 are exact


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_is_halved(make_config: ConfigMaker) -> None:
    model = nn.Conv2d(1, 1, 1)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = GradScaler("cpu", init_scale=2.0**127)
    images = torch.ones(2, 1, 8, 8)
    loss = train_step(
        model, optimizer, scaler, images, images, make_config(), lambda outputs, _: 100 * outputs.sum(), lr=1
    )
    assert loss.isfinite()
    assert_same(before, model.state_dict())
    assert scaler.get_scale() == 2.0**126


def test_training_stops_where_every_step_overflows(
    make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup
) -> None:
    config = make_config()
    state = FitState.create(config, single)
    state.scaler = GradScaler("cpu", init_scale=2.0**-11)
    with pytest.raises(DivergedError, match=r"overflowed float16 in step after step up to epoch 1; lower optim\.lr"):
        next(fit(state, tensors, None, config, single))


@pytest.mark.parametrize(("setting", "mode"), [("default", "default"), ("graphs", "reduce-overhead")])
def test_the_network_is_compiled_as_set(
    single: ProcessGroup, monkeypatch: pytest.MonkeyPatch, setting: Compile, mode: str
) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: told.append(options))
    wrap_ddp(nn.Conv2d(1, 1, 1), single)
    assert not told
    wrap_ddp(nn.Conv2d(1, 1, 1), single, setting)
    assert told == [{"mode": mode, "backend": "inductor", "dynamic": False}]


def test_a_compiled_network_trains_to_the_same_weights(make_config: ConfigMaker, single: ProcessGroup) -> None:
    config = make_config()
    plain, compiled = (FitState.create(config, single) for _ in range(2))
    images = torch.rand(2, 1, 64, 64)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    for state in (plain, compiled):
        network = wrap_ddp(state.model, single, "default" if state is compiled else "off", backend).train()
        loss_of = partial(batch_loss, config=config.loss)
        train_step(network, state.optimizer, state.scaler, images, images.round(), config, loss_of, lr=1e-3)
    assert len(graphs) == 1, "a break in the graph"
    assert_same(plain.state_dict(), compiled.state_dict())


def test_validation_ignores_the_padding(make_config: ConfigMaker, tiles: LabelledTiles, single: ProcessGroup) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * 0 + 0.1  # probability 0.525: salt everywhere

    result = evaluate(Constant(), TileTensors.create(tiles, single.device), make_config(), BCE, single)
    salt = int(tiles.masks.sum()) / tiles.masks.size
    expected_loss = np.log1p(np.exp(0.1)) - 0.1 * salt
    # No tile is more than half salt.
    expected = {"score": 0, "iou": salt, "dice": 2 * salt / (1 + salt), "valid_loss": expected_loss}
    assert result == pytest.approx(expected, rel=1e-6)


def test_ranks_share_each_batch_equally(single: ProcessGroup) -> None:
    groups = [ProcessGroup(rank, 3, single.device) for rank in range(3)]
    assert [list(range(6))[rank_slice(6, group)] for group in groups] == [[0, 1], [2, 3], [4, 5]]


def test_one_rank_needs_no_ddp(single: ProcessGroup) -> None:
    model = Gain()
    assert wrap_ddp(model, single) is model


def test_several_ranks_use_ddp_without_broadcasting_buffers(tmp_path: Path, single: ProcessGroup) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        network = wrap_ddp(Gain(), ProcessGroup(rank=0, size=2, device=single.device))
    finally:
        dist.destroy_process_group()
    assert isinstance(network, DistributedDataParallel)
    assert not network.broadcast_buffers


def test_unsuitable_settings_are_refused(make_config: ConfigMaker, tensors: TileTensors, single: ProcessGroup) -> None:
    config = make_config(batch_size=7)
    pair = ProcessGroup(rank=0, size=2, device=single.device)
    state = FitState.create(config, single)
    with pytest.raises(ConfigError, match=r"train.batch_size 7 is not divisible by the number of ranks, 2; use 8"):
        next(fit(state, tensors, tensors, config, pair))
    black = Tiles(tuple(f"{i:03}" for i in range(20)), np.zeros((20, 101, 101), np.uint8))
    large = TileTensors.create(black, single.device)
    with pytest.raises(ConfigError, match=r"101x101 .* train.input_size 64"):
        next(fit(state, large, tensors, config, single))


@pytest.mark.parametrize("case", ["synchronised", "albunet", "deep", "defaults"])
def test_two_ranks_give_the_metrics_of_one(two_ranks: TwoRanks, case: str) -> None:
    alone, first, second = (two_ranks[place][case] for place in ("alone", "0", "1"))
    assert len(alone["metrics"]) == 2
    for one, two, other in zip(alone["metrics"], first["metrics"], second["metrics"], strict=True):
        times = {"seconds": 0, "images_per_second": 0}
        assert {**two, **times} == {**other, **times}
        assert (one["epoch"], one["lr"]) == (two["epoch"], two["lr"])
        # Adam turns the rounding of gradients near zero into whole steps, hence the tolerance.
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
        assert one["valid_loss"] == pytest.approx(two["valid_loss"], rel=1e-3)
        assert (one["iou"], one["dice"]) == pytest.approx((two["iou"], two["dice"]), abs=5e-3)
        assert one["score"] == pytest.approx(two["score"], abs=0.03)  # two of the 70 comparisons
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())


def test_two_ranks_give_the_weights_of_one(two_ranks: TwoRanks) -> None:
    alone, first = (two_ranks[place]["albunet"]["model"] for place in ("alone", "0"))
    assert alone.keys() == first.keys()
    for key, value in alone.items():
        assert float((first[key] - value).abs().double().mean()) < 1e-4, key


def test_a_nan_on_one_rank_stops_all(two_ranks: TwoRanks) -> None:
    for place in ("alone", "0", "1"):
        message = two_ranks[place]["nan"]["error"]
        assert "in epoch 1, step 2 of 2, at a learning rate of 0.001; lower optim.lr (it is 0.001)" in message
