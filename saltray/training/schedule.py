"""The schedules: the learning rate as a pure function of the step, the loss as one of the epoch."""

import math
from dataclasses import replace

from saltray.config import Config, LossConfig, OptimConfig


def lr_at(step: int, *, total: int, warmup: float, config: OptimConfig) -> float:
    """Learning rate of a step.

    Linear warm-up from zero to `config.lr` over `warmup` steps; then constant, or half a cosine down to zero at the
    last step (Loshchilov and Hutter 2016, SGDR, arXiv:1608.03983, without restarts).

    Args:
        step: 0..total-1.
        total: number of steps of the whole run.
        warmup: length of the warm-up, in steps.
        config: peak learning rate and schedule.
    """
    done = step + 1
    if done < warmup:
        return config.lr * done / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (done - warmup) / (total - warmup) if total > warmup else 0.0
    return config.lr * (1 + math.cos(math.pi * progress)) / 2


def loss_at(epoch: int, config: Config) -> LossConfig:
    """The loss of an epoch: `config.loss`, later with the weights of `config.late_loss`.

    The first `late_loss.after` epochs have the former. Then each of `late_loss.ramp` epochs has a weight between the
    two, in equal steps, and the rest have the latter.

    Args:
        epoch: the number of finished epochs, 0 in the first.
        config: the configuration of the run.
    """
    early, late = config.loss, config.late_loss
    if late.after is None or epoch < late.after:
        return early
    share = min(1.0, (epoch - late.after + 1) / (late.ramp + 1))
    weights = {name: (1 - share) * weight + share * late.weights[name] for name, weight in early.weights.items()}
    return replace(early, **weights)
