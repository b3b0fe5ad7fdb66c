"""The learning-rate schedule, as a pure function of the step."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from saltray.config import OptimConfig


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
