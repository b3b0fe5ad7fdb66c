"""What a search maximises: the best validation score over a trial's epochs.

Tiles without salt make scores tie: every network that still predicts no salt anywhere has the baseline score. Then the
lower validation loss decides, or the search could not tell trials apart in the first epochs.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

from saltray.training.epoch_metrics import EpochMetrics

OBJECTIVE = "objective"
"""Name of the number by which the search's scheduler and sampler compare trials."""
TIE_BREAK = 1e-7
"""More than any loss may count for: the scores of fewer than a million tiles lie further apart."""

E = TypeVar("E", bound=EpochMetrics)


def best_epoch(epochs: Iterable[E]) -> E | None:
    """The epoch of the highest score, among equals that of the lowest validation loss; None where none has a score."""
    scored = [epoch for epoch in epochs if epoch.score is not None]
    return max(scored, key=objective, default=None)


def objective(epoch: EpochMetrics | None) -> float:
    """One finite number that orders epochs by score, then by validation loss; the least, 0, for no epoch."""
    if epoch is None or epoch.score is None or not math.isfinite(epoch.score):
        return 0.0
    loss = math.inf if epoch.valid_loss is None else epoch.valid_loss
    return float(epoch.score) + (TIE_BREAK / (1 + max(loss, 0.0)) if math.isfinite(loss) else 0.0)
