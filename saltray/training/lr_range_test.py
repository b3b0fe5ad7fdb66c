"""The learning-rate range test (Smith, Cyclical Learning Rates, 2015): a short run at a rate that grows all the way."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saltray.config import Config
from saltray.data.augment import Augmenter
from saltray.training.engine import rank_slice, train_step, wrap_ddp
from saltray.training.losses import tile_losses
from saltray.training.precision import autocast
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

SMOOTHING = 0.9
"""Weight of the losses so far in the moving average."""
BLOWN_UP = 3.0
"""The test ends where the average loss is so many times the lowest."""
CLEARLY = 0.02
"""Share of the loss at the start that counts as a change."""


@dataclass(frozen=True)
class LRRangeTest:
    """Loss against learning rate, step by step."""

    rates: tuple[float, ...]
    """Learning rate of each step, rising by the same factor from each to the next."""
    losses: tuple[float, ...]
    """Training loss of each step's batch, before the step."""
    smooth: tuple[float, ...]
    """Their moving average, without what they owe to the tiles that happened to be in the batch: see `sweep`."""

    @property
    def suggestion(self) -> float | None:
        """A learning rate to begin with: a tenth of the one at which the averaged loss was lowest.

        Only up to where the average first lies clearly above its start: a network that was thrown off may come to rest
        at a constant prediction, at a lower loss than it began with. None where the loss did not fall clearly before.
        """
        if not self.smooth:
            return None
        start = self.smooth[0]
        sound = list(itertools.takewhile(lambda average: average <= (1 + CLEARLY) * start, self.smooth))
        lowest = min(range(len(sound)), key=sound.__getitem__)
        return self.rates[lowest] / 10 if sound[lowest] < (1 - CLEARLY) * start else None


def lr_range_test(
    state: FitState, train: TileTensors, config: Config, ranks: ProcessGroup, *, low: float, high: float, steps: int
) -> LRRangeTest:
    """Train for `steps` steps while the rate grows from `low` to `high`, or until the loss blows up.

    Every rank runs this with the same tiles, and all of them get the same result. Losses differ more between batches
    than between rates, so the untrained network is run on each batch too: what is averaged is by how much the loss lies
    below or above its.

    Args:
        state: where to begin; it is spoilt.
        train: tiles to learn from.
        config: the run; its schedule is not used.
        ranks: this rank.
        low: first learning rate.
        high: last learning rate.
        steps: number of steps, 2 or more.

    Raises:
        ConfigError: the batch does not divide among the ranks, or the tiles are larger than the input size.
    """
    batch, seed = config.train.batch_size, config.train.seed
    share = rank_slice(batch, ranks)
    augment = Augmenter(config.augment, config.train.input_size, seed)
    network = wrap_ddp(state.model, ranks).train()
    each = train.steps(batch)
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    untrained = state.ema.train()
    losses: list[float] = []
    before: list[float] = []
    averages: list[float] = []
    for step, rate in enumerate(rates):
        epoch = step // each
        index = train.epoch_order(seed, epoch, batch)[step % each, share]
        images, masks = augment(train.images[index], train.masks[index], train.keys[index], epoch)
        with torch.no_grad(), autocast(config.train.precision, images.device):
            reference = tile_losses(untrained(images), masks, config.train).mean()
        loss = train_step(network, state.optimizer, images, masks, config, rate)
        values = (ranks.sum(torch.stack([loss, reference])) / ranks.size).tolist()
        if not math.isfinite(values[0]):
            break
        losses.append(values[0])
        before.append(values[1])
        averages = smoothed(losses, before)
        if averages[-1] > BLOWN_UP * min(averages):
            break
    return LRRangeTest(tuple(rates[: len(losses)]), tuple(losses), tuple(averages))


def smoothed(losses: Sequence[float], before: Sequence[float]) -> list[float]:
    """Moving average of how far `losses` lie from `before`, on top of the mean of `before`.

    Args:
        losses: of each step's batch.
        before: what the untrained network lost on it.
    """
    level = math.fsum(before) / len(before)
    averages, average = [], 0.0
    for step, (loss, reference) in enumerate(zip(losses, before, strict=True), start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * (loss - reference)
        averages.append(level + average / (1 - SMOOTHING**step))  # corrected for its start, as Adam's moments are
    return averages
