"""The schedules: the learning rate as a pure function of the step, the loss as one of the epoch."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from saltray.config import Config, LossConfig, OptimConfig


def lr_at(step: int, *, ends: Sequence[int], warmup: float, config: OptimConfig) -> float:
    """Learning rate of a step.

    Linear warm-up from zero to `config.lr` over `warmup` steps; then constant, or half a cosine down to zero at the end
    of each cycle, from `config.lr` again after it (Loshchilov and Hutter 2016, SGDR, arXiv:1608.03983).

    Args:
        step: 0..ends[-1]-1.
        ends: number of steps at the end of each cycle, rising; the last is that of the whole run.
        warmup: length of the warm-up, in steps.
        config: peak learning rate and schedule.
    """
    done = step + 1
    if done < warmup:
        return config.lr * done / warmup
    if config.schedule == "constant":
        return config.lr
    cycle = cycle_of(step, ends)
    start = max(warmup, cycle_start(cycle, ends))
    progress = (done - start) / (ends[cycle] - start) if ends[cycle] > start else 0.0
    return config.lr * (1 + math.cos(math.pi * progress)) / 2


def cycle_of(step: int, ends: Sequence[int]) -> int:
    """The cycle, from 0, that a step, from 0, is in."""
    return bisect_right(ends, step)


def cycle_start(cycle: int, ends: Sequence[int]) -> int:
    """The first step of a cycle."""
    return ends[cycle - 1] if cycle else 0


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
