"""One fold, from its first step to its last."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from saltray.config import Config
from saltray.data.augment import Augmenter
from saltray.errors import ConfigError, DivergedError
from saltray.training.ema import WeightAverager
from saltray.training.inference import evaluating, tile_logits
from saltray.training.losses import tile_losses
from saltray.training.metrics import Counts
from saltray.training.norm import average_buffers
from saltray.training.precision import autocast
from saltray.training.process_group import ProcessGroup
from saltray.training.schedule import lr_at
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave, over all ranks; the validation's part is None in an epoch without one."""

    epoch: int
    """Finished epochs, this one counted."""
    loss: float
    """Mean training loss over the epoch's steps."""
    lr: float
    """Learning rate of the last step."""
    seconds: float
    """Wall time of the epoch, with its validation."""
    images_per_second: float
    """Training tiles a second over all ranks, without the validation."""
    score: float | None = None
    """Competition score of the averaged weights on the validation tiles, at a threshold of 0.5; 0..1."""
    iou: float | None = None
    """Intersection over union of all validation pixels together."""
    dice: float | None = None
    """Dice coefficient of all validation pixels together."""
    valid_loss: float | None = None
    """Mean loss of the validation tiles, without the padding."""


def mean_metrics(parts: Sequence[EpochMetrics]) -> EpochMetrics:
    """One epoch of several folds that are trained in turn: means, but the times add up."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]  # all of them or none, as folds are validated alike
        return math.fsum(known) / len(known) if known else None

    return replace(
        parts[0],
        loss=math.fsum(part.loss for part in parts) / len(parts),
        seconds=math.fsum(part.seconds for part in parts),
        images_per_second=len(parts) / math.fsum(1 / part.images_per_second for part in parts),
        score=mean(part.score for part in parts),
        iou=mean(part.iou for part in parts),
        dice=mean(part.dice for part in parts),
        valid_loss=mean(part.valid_loss for part in parts),
    )


def fit(
    state: FitState, train: TileTensors, valid: TileTensors, config: Config, ranks: ProcessGroup
) -> Iterator[EpochMetrics]:
    """Train from `state.epoch` to `config.train.epochs`, and yield after each epoch.

    At each yield `state` is whole: save it, or stop there. Every rank runs this with the same tiles; a step takes
    `config.train.batch_size` of them, an equal share a rank, and the results are those of one rank but for rounding.

    Args:
        state: where to begin; it is trained in place.
        train: tiles to learn from.
        valid: tiles to score the averaged weights on.
        config: the run.
        ranks: this rank.

    Raises:
        ConfigError: the batch does not divide among the ranks, or the tiles are larger than the input size.
        DivergedError: a loss, of training or validation, or a gradient is NaN or infinite, on all ranks alike; found at
            the epoch's end, and `state` is then useless.
    """
    settings, device = config.train, ranks.device
    share = rank_slice(settings.batch_size, ranks)
    steps = train.steps(settings.batch_size)
    augment = Augmenter(config.augment, settings.input_size, settings.seed)
    averager = WeightAverager(state.ema, state.model, config.optim.ema_decay)
    network = wrap_ddp(state.model, ranks)

    for epoch in range(state.epoch, settings.epochs):
        started = time.perf_counter()
        network.train()
        losses = torch.zeros(steps, device=device)
        for step, index in enumerate(train.epoch_order(settings.seed, epoch, settings.batch_size)[:, share]):
            images, masks = augment(train.images[index], train.masks[index], train.keys[index], epoch)
            # Stays on the device: reading it here would make the CPU wait for the GPU at every step.
            losses[step] = train_step(network, state.optimizer, images, masks, config, _lr(state.step, steps, config))
            averager.update(state.step)
            state.step += 1
        loss_mean = _checked_mean(losses, epoch, config, ranks)
        trained = time.perf_counter()
        if ranks.size > 1 and not settings.sync_batchnorm:
            average_buffers(state.model, ranks)
            average_buffers(state.ema, ranks)
        state.epoch = epoch + 1
        due = state.epoch % settings.eval_every == 0 or state.epoch == settings.epochs
        validation = evaluate(state.ema, valid, config, ranks) if due else {}
        if not math.isfinite(validation.get("valid_loss", 0.0)):
            raise DivergedError(
                f"the validation loss became NaN or infinite after epoch {state.epoch}; lower optim.lr (it is "
                f"{config.optim.lr:g})"
            )
        yield EpochMetrics(
            epoch=state.epoch,
            loss=loss_mean,
            lr=_lr(state.step - 1, steps, config),
            seconds=time.perf_counter() - started,
            images_per_second=steps * settings.batch_size / (trained - started),
            **validation,
        )


def train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, masks: Tensor, config: Config, lr: float
) -> Tensor:
    """One step on a batch.

    Args:
        network: in training mode, wrapped for its ranks.
        optimizer: of the network's parameters.
        images: [B, 1, S, S], augmented, on the network's device.
        masks: [B, 1, S, S].
        config: loss, precision and clipping.
        lr: learning rate of this step.

    Returns:
        this rank's loss before the step, on its device; NaN where the gradient is not finite.
    """
    with autocast(config.train.precision, images.device):
        logits = network(images)
    loss = tile_losses(logits, masks, config.train).mean()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = clip_grad_norm_(parameters, config.optim.clip_norm or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.where(norm.isfinite(), loss.detach(), math.nan)


def evaluate(model: nn.Module, tiles: TileTensors, config: Config, ranks: ProcessGroup) -> dict[str, float]:
    """Score, IoU and Dice at a threshold of 0.5, and the mean loss, on the tiles at their own size."""
    settings, size = config.train, ranks.size
    counts = Counts.zero(ranks.device)
    loss = torch.zeros((), dtype=torch.float64, device=ranks.device)
    images, masks = tiles.images[ranks.rank :: size], tiles.masks[ranks.rank :: size]
    batch = settings.batch_size // size
    with evaluating(model):
        for start in range(0, len(images), batch):
            truth = masks[start : start + batch]
            logits = tile_logits(model, images[start : start + batch], settings.input_size, settings.precision)
            counts += Counts.of(logits.sigmoid(), truth, 0.5)
            loss += tile_losses(logits[:, None], truth[:, None], settings).double().sum()
        counts, valid_loss = counts.all_reduce(ranks), float(ranks.sum(loss)) / len(tiles)
    return {"score": counts.score, "iou": counts.iou, "dice": counts.dice, "valid_loss": valid_loss}


def rank_slice(batch_size: int, ranks: ProcessGroup) -> slice:
    """This rank's part of each global batch."""
    if batch_size % ranks.size:
        raise ConfigError(
            f"train.batch_size {batch_size} does not divide among {ranks.size} ranks; "
            f"use {-(-batch_size // ranks.size) * ranks.size}"
        )
    each = batch_size // ranks.size
    return slice(ranks.rank * each, (ranks.rank + 1) * each)


def wrap_ddp(model: nn.Module, ranks: ProcessGroup) -> nn.Module:
    """`model` itself, or wrapped so that the gradients are averaged over the ranks."""
    if ranks.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if ranks.size == 1:
        return model
    network = DistributedDataParallel(
        model,
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=True,
    )
    # They are equal by synchronised BatchNorm, or averaged after the epoch. As an argument it has another name in torch
    # 2.6 than in 2.15.
    network.broadcast_buffers = False
    return network


def _lr(step: int, steps: int, config: Config) -> float:
    warmup = config.optim.warmup_epochs * steps
    return lr_at(step, total=config.train.epochs * steps, warmup=warmup, config=config.optim)


def _checked_mean(losses: Tensor, epoch: int, config: Config, ranks: ProcessGroup) -> float:
    """Mean of the epoch's losses over steps and ranks; every rank sees every other's, so all raise alike."""
    values = (ranks.sum(losses) / ranks.size).tolist()
    for step, value in enumerate(values):
        if not math.isfinite(value):
            lr = _lr(epoch * len(values) + step, len(values), config)
            raise DivergedError(
                f"the loss or its gradient became NaN or infinite in epoch {epoch + 1}, step {step + 1} of "
                f"{len(values)}, at a learning rate of {lr:.3g}; lower optim.lr (it is {config.optim.lr:g})"
            )
    return math.fsum(values) / len(values)
