"""The training loop of one job, and its validation."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from saltray.config import Compile, Config, LossConfig
from saltray.errors import ConfigError, DivergedError
from saltray.training.ema import WeightAverager
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.inference import evaluating, tile_logits
from saltray.training.losses import tile_losses
from saltray.training.metrics import Counts
from saltray.training.norm import average_buffers
from saltray.training.precision import autocast
from saltray.training.process_group import ProcessGroup
from saltray.training.schedule import cycle_of, cycle_start, loss_at, lr_at
from saltray.training.state import FitState
from saltray.training.tasks import LossFunction, Segmentation, Task
from saltray.training.tile_tensors import TileTensors

_LEAST_SCALE = 2.0**-10
"""A loss that is scaled by less overflows float16 whatever the scale; at first it is 2**16."""


def fit(
    state: FitState,
    train: TileTensors,
    valid: TileTensors | None,
    config: Config,
    group: ProcessGroup,
    task: Task | None = None,
) -> Iterator[EpochMetrics]:
    """Train from `state.epoch` to `config.train.epochs`, and yield after each epoch.

    At each yield `state` is consistent and can be saved. Every rank calls this with the same tiles; each step uses a
    global batch of `config.train.batch_size` of them, in equal parts per rank, and the results equal those of a single
    rank up to rounding.

    Args:
        state: the initial or resumed state, trained in place.
        train: the tiles to train on.
        valid: the tiles to evaluate the averaged weights on; None to evaluate nothing.
        config: the configuration of the run.
        group: the process group of this fold.
        task: what is learnt; segmentation by default.

    Raises:
        ConfigError: the batch size is not divisible by the number of ranks, or tiles are larger than the input size.
        DivergedError: a training loss, validation loss or gradient is NaN or infinite. It is checked at the end of the
            epoch and raised on all ranks; `state` cannot be used afterwards.
    """
    settings, device = config.train, group.device
    share = rank_slice(settings.batch_size, group)
    steps = train.steps(settings.batch_size)
    ends = [end * steps for end in config.cycle_ends]
    task = task or Segmentation(config)
    averager = WeightAverager(state.ema, state.model, config.optim.ema_decay)
    network = wrap_ddp(state.model, group, config.cluster.compile)

    for epoch in range(state.epoch, settings.epochs):
        started = time.perf_counter()
        network.train()
        loss = partial(task.loss, epoch=epoch)
        losses = torch.zeros(steps, device=device)
        order = train.epoch_order(settings.seed, epoch, settings.batch_size)[:, share].flatten()
        for step, (images, masks, keys) in enumerate(train.batches(order, settings.batch_size // group.size)):
            inputs, targets = task.batch(images, masks, keys, epoch)
            # Kept on the device: reading it here would synchronise CPU and GPU at every step.
            lr = _lr(state.step, steps, config)
            losses[step] = train_step(network, state.optimizer, state.scaler, inputs, targets, config, loss, lr)
            # A new cycle leaves the weights that the last one found, so the average starts anew.
            averager.update(state.step - cycle_start(cycle_of(state.step, ends), ends))
            state.step += 1
        mean_loss = _checked_mean(losses, epoch, config, group)
        _check_scale(state.scaler, epoch, config)
        trained = time.perf_counter()
        if group.size > 1 and not settings.sync_batchnorm:
            average_buffers(state.model, group)
            average_buffers(state.ema, group)
        state.epoch = epoch + 1
        validation = {}
        if valid is not None and (state.epoch % settings.eval_every == 0 or state.epoch in config.cycle_ends):
            validation = evaluate(state.ema, valid, config, loss_at(epoch, config), group)
        if not math.isfinite(validation.get("valid_loss", 0.0)):
            raise DivergedError(
                f"the validation loss became NaN or infinite after epoch {state.epoch}; "
                f"lower optim.lr (it is {config.optim.lr:g})"
            )
        yield EpochMetrics(
            epoch=state.epoch,
            loss=mean_loss,
            lr=_lr(state.step - 1, steps, config),
            seconds=time.perf_counter() - started,
            images_per_second=steps * settings.batch_size / (trained - started),
            **validation,
        )


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    inputs: Tensor,
    targets: Tensor,
    config: Config,
    loss_of: LossFunction,
    lr: float,
) -> Tensor:
    """One optimizer step on one batch.

    Args:
        network: the network in training mode, as returned by `wrap_ddp`.
        optimizer: the optimizer of its parameters.
        scaler: of the loss; it skips the step where float16 gradients overflow.
        inputs: float32 [B, 1, S, S] in 0..1, of the task, on the network's device.
        targets: of the task.
        config: the configuration of the run: precision and gradient clipping.
        loss_of: the mean loss of a batch, of the network's outputs and the targets.
        lr: learning rate of this step.

    Returns:
        the loss of this rank's part of the batch before the step, a scalar on its device; NaN if the gradient is not
        finite and the step was not skipped.
    """
    with autocast(config.train.precision, inputs.device):
        outputs = network(inputs)
    loss = loss_of(outputs, targets)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    scaler.unscale_(optimizer)
    parameters = [parameter for param_group in optimizer.param_groups for parameter in param_group["params"]]
    norm = clip_grad_norm_(parameters, config.optim.clip_norm or math.inf)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach() if scaler.is_enabled() else torch.where(norm.isfinite(), loss.detach(), math.nan)


def evaluate(
    model: nn.Module, tiles: TileTensors, config: Config, loss_config: LossConfig, group: ProcessGroup
) -> dict[str, float]:
    """The validation's part of `EpochMetrics`, by field name; computed on the tiles without padding.

    The validation loss has the weights of the epoch that was just trained, like the training loss beside it; both
    change their meaning where `late_loss` begins. Side outputs have no part in it.

    Args:
        model: the network to evaluate; its training mode is restored.
        tiles: the tiles; each rank evaluates every `group.size`-th of them.
        config: the configuration of the run.
        loss_config: the loss of this epoch.
        group: the process group of this fold.
    """
    settings, size = config.train, group.size
    counts = Counts.zero(group.device)
    loss = torch.zeros((), dtype=torch.float64, device=group.device)
    mine = torch.arange(group.rank, len(tiles), size, device=group.device)
    with evaluating(model):
        for images, truth, _ in tiles.batches(mine, settings.batch_size // size):
            logits = tile_logits(model, images, settings.input_size, settings.precision, settings.resize)
            counts += Counts.of(logits.sigmoid(), truth, 0.5)
            loss += tile_losses(logits[:, None], truth[:, None], loss_config).double().sum()
        counts, valid_loss = counts.all_reduce(group), float(group.sum(loss)) / len(tiles)
    return {"score": counts.score, "iou": counts.iou, "dice": counts.dice, "valid_loss": valid_loss}


def rank_slice(batch_size: int, group: ProcessGroup) -> slice:
    """Positions of this rank's part in each global batch.

    Raises:
        ConfigError: the batch size is not divisible by the number of ranks.
    """
    if batch_size % group.size:
        raise ConfigError(
            f"train.batch_size {batch_size} is not divisible by the number of ranks, {group.size}; "
            f"use {-(-batch_size // group.size) * group.size}"
        )
    each = batch_size // group.size
    return slice(group.rank * each, (group.rank + 1) * each)


def wrap_ddp(
    model: nn.Module, group: ProcessGroup, compiled: Compile = "off", backend: str | Callable[..., Any] = "inductor"
) -> nn.Module:
    """`model` in DistributedDataParallel, which averages the gradients over the ranks; `model` itself for one rank.

    Args:
        model: the network in training; compiled in place, so that its tensors keep their names.
        group: the process group of this fold.
        compiled: what torch.compile does with its passes; only the calls of `model` itself, not of copies.
        backend: torch.compile's.
    """
    if compiled != "off":
        model.compile(mode="reduce-overhead" if compiled == "graphs" else "default", backend=backend, dynamic=False)
    if group.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if group.size == 1:
        return model
    network = DistributedDataParallel(
        model,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=True,
    )
    # Buffers are equal because BatchNorm is synchronised, or are averaged after each epoch. Set as an attribute, since
    # the argument's name differs between torch 2.6 and 2.15.
    network.broadcast_buffers = False
    return network


def _lr(step: int, steps: int, config: Config) -> float:
    warmup = config.optim.warmup_epochs * steps
    return lr_at(step, ends=[end * steps for end in config.cycle_ends], warmup=warmup, config=config.optim)


def _check_scale(scaler: GradScaler, epoch: int, config: Config) -> None:
    """Raise where the gradients overflowed step after step, so that the weights stay as they are."""
    if scaler.is_enabled() and scaler.get_scale() < _LEAST_SCALE:
        raise DivergedError(
            f"the gradient overflowed float16 in step after step up to epoch {epoch + 1}; lower optim.lr (it is "
            f"{config.optim.lr:g}), or compute in float32 (train.precision fp32)"
        )


def _checked_mean(losses: Tensor, epoch: int, config: Config, group: ProcessGroup) -> float:
    """Mean of the epoch's losses over steps and ranks; all ranks raise if one of them has a loss that is not finite."""
    values = (group.sum(losses) / group.size).tolist()
    for step, value in enumerate(values):
        if not math.isfinite(value):
            lr = _lr(epoch * len(values) + step, len(values), config)
            raise DivergedError(
                f"the loss or its gradient became NaN or infinite in epoch {epoch + 1}, step {step + 1} of "
                f"{len(values)}, at a learning rate of {lr:.3g}; lower optim.lr (it is {config.optim.lr:g})"
            )
    return math.fsum(values) / len(values)
