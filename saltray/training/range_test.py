"""The learning-rate range test (Smith, Cyclical Learning Rates, 2015): a short run at a rate that grows all the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from saltray.config import Config
from saltray.data.augment import Augmenter
from saltray.training.engine import learn, parallel, share_of
from saltray.training.ranks import Ranks
from saltray.training.state import FitState
from saltray.training.tiles import TileTensors

SMOOTHING = 0.9
"""Weight of the losses so far in the moving average."""
BLOWN_UP = 3.0
"""The test ends where the average loss is so many times the lowest."""


@dataclass(frozen=True)
class Sweep:
    """Loss against learning rate, step by step."""

    rates: tuple[float, ...]
    """Learning rate of each step, rising by the same factor from each to the next."""
    losses: tuple[float, ...]
    """Training loss of each step's batch, before the step."""
    smooth: tuple[float, ...]
    """Exponential moving average of the losses, without the bias of its start."""

    @property
    def suggestion(self) -> float | None:
        """A learning rate to begin with: a tenth of the one at which the averaged loss was lowest.

        None where the loss did not fall by 2 %: the rates were too low, or too high from the start.
        """
        if not self.smooth:
            return None
        lowest = min(range(len(self.smooth)), key=self.smooth.__getitem__)
        return self.rates[lowest] / 10 if self.smooth[lowest] < 0.98 * self.smooth[0] else None


def sweep(
    state: FitState, train: TileTensors, config: Config, ranks: Ranks, *, low: float, high: float, steps: int
) -> Sweep:
    """Train for `steps` steps while the rate grows from `low` to `high`, or until the loss blows up.

    Every rank runs this with the same tiles, and all of them get the same result.

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
    share = share_of(batch, ranks)
    augment = Augmenter(config.augment, config.train.input_size, seed)
    network = parallel(state.model, ranks).train()
    each = train.steps(batch)
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    losses: list[float] = []
    for step, rate in enumerate(rates):
        epoch = step // each
        index = train.epoch_order(seed, epoch, batch)[step % each, share]
        images, masks = augment(train.images[index], train.masks[index], train.keys[index], epoch)
        loss = float(ranks.sum(learn(network, state.optimizer, images, masks, config, rate))) / ranks.size
        if not math.isfinite(loss):
            break
        losses.append(loss)
        averages = smoothed(losses)
        if averages[-1] > BLOWN_UP * min(averages):
            break
    return Sweep(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed(losses)))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start as Adam's moments are."""
    averages, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        averages.append(average / (1 - SMOOTHING**step))
    return averages
