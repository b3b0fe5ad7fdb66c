"""The learning-rate schedule, as a pure function of the step."""

import math

from saltray.config import OptimConfig


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
