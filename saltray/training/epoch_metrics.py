"""The metrics of one epoch. This module does not import torch, so that histories can be read without it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saltray.records import Epoch, Fraction, Rate, Seconds


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch over all ranks; those of the validation are None in an epoch without one."""

    epoch: Epoch
    """Number of finished epochs, including this one."""
    loss: float
    """Mean training loss over the epoch's steps, by the weights of this epoch."""
    lr: Rate
    """Learning rate of the last step."""
    seconds: Seconds
    """Wall-clock time of the epoch, including its validation."""
    images_per_second: Rate
    """Training tiles per second over all ranks, without the validation."""
    score: Fraction | None = None
    """Competition score of the averaged weights on the validation tiles, at a threshold of 0.5; 0..1."""
    iou: Fraction | None = None
    """Intersection over union of the same predictions, over the pixels of all tiles together."""
    dice: Fraction | None = None
    """Dice coefficient of the same predictions, over the pixels of all tiles together."""
    valid_loss: float | None = None
    """Mean loss of the averaged weights on the validation tiles, without padding, by the weights of this epoch."""


def mean_metrics(parts: Sequence[EpochMetrics]) -> EpochMetrics:
    """Metrics of the same epoch of several folds that train in turn, as one: means, and the sum of the times."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]  # all or none: folds are validated in the same epochs
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
