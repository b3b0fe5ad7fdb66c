"""The learning-rate range test: a short run whose learning rate grows at every step (Smith 2015, arXiv:1506.01186)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from saltray.config import Config
from saltray.training.engine import rank_slice, train_step, wrap_ddp
from saltray.training.precision import autocast
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tasks import Segmentation
from saltray.training.tile_tensors import TileTensors

SMOOTHING = 0.9
"""Decay of the moving average, per step."""
DIVERGED = 3.0
"""The test stops when the average loss exceeds this many times its minimum."""
TOLERANCE = 0.02
"""Changes of the average loss below this share of its first value are treated as noise."""


@dataclass(frozen=True)
class LRRangeTest:
    """Loss against learning rate, step by step."""

    rates: tuple[float, ...]
    """Learning rate of each step, which grows by a constant factor."""
    losses: tuple[float, ...]
    """Training loss of each step's batch, before the step."""
    smooth: tuple[float, ...]
    """Moving average of the losses, corrected for the difficulty of each batch: see `smoothed`."""

    @property
    def suggestion(self) -> float | None:
        """Suggested learning rate: a tenth of the rate at which the average loss was lowest.

        Only the steps before the average first rises above its initial value (by more than `TOLERANCE`) count: a
        network that has diverged may settle at a constant prediction whose loss is lower than the initial one. None if
        the average did not fall by more than `TOLERANCE` before.
        """
        if not self.smooth:
            return None
        start = self.smooth[0]
        stable = list(itertools.takewhile(lambda average: average <= (1 + TOLERANCE) * start, self.smooth))
        lowest = min(range(len(stable)), key=stable.__getitem__)
        return self.rates[lowest] / 10 if stable[lowest] < (1 - TOLERANCE) * start else None


def lr_range_test(
    state: FitState, train: TileTensors, config: Config, group: ProcessGroup, *, low: float, high: float, steps: int
) -> LRRangeTest:
    """Train for `steps` steps while the learning rate grows from `low` to `high`, or until the loss diverges.

    Every rank calls this with the same tiles and gets the same result. Losses vary more between batches than between
    learning rates, so each batch is also evaluated by the untrained network: see `smoothed`.

    Args:
        state: the initial state; it cannot be used afterwards.
        train: the tiles to train on.
        config: the configuration of the run; its schedules, `late_loss` among them, are ignored.
        group: the process group of this fold.
        low: first learning rate.
        high: last learning rate.
        steps: number of steps, 2 or more.

    Raises:
        ConfigError: the batch size is not divisible by the number of ranks, or tiles are larger than the input size.
    """
    batch_size, seed = config.train.batch_size, config.train.seed
    share = rank_slice(batch_size, group)
    task = Segmentation(config)
    loss_of = partial(task.loss, epoch=0)
    network = wrap_ddp(state.model, group).train()
    steps_per_epoch = train.steps(batch_size)
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    untrained = state.ema.train()
    losses: list[float] = []
    references: list[float] = []
    averages: list[float] = []
    for step, rate in enumerate(rates):
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0:
            order = train.epoch_order(seed, epoch, batch_size)
        images, masks = task.batch(*train.batch(order[place, share]), epoch)
        with torch.no_grad(), autocast(config.train.precision, images.device):
            reference = loss_of(untrained(images), masks)
        loss = train_step(network, state.optimizer, state.scaler, images, masks, config, loss_of, rate)
        loss_mean, reference_mean = (group.sum(torch.stack([loss, reference])) / group.size).tolist()
        if not math.isfinite(loss_mean):
            break
        losses.append(loss_mean)
        references.append(reference_mean)
        averages = smoothed(losses, references)
        if averages[-1] > DIVERGED * min(averages):
            break
    return LRRangeTest(tuple(rates[: len(losses)]), tuple(losses), tuple(averages))


def smoothed(losses: Sequence[float], references: Sequence[float]) -> list[float]:
    """Moving average of the differences between losses and references, plus the mean of the references.

    Args:
        losses: loss of each step's batch.
        references: loss of the untrained network on the same batch.
    """
    level = math.fsum(references) / len(references)
    averages, average = [], 0.0
    for step, (loss, reference) in enumerate(zip(losses, references, strict=True), start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * (loss - reference)
        averages.append(level + average / (1 - SMOOTHING**step))  # bias correction, as in Adam
    return averages
