"""What a search maximises: the best validation score over a trial's epochs.

Tiles without salt make scores tie: every network that still predicts no salt anywhere has the score of doing so. The
lower validation loss then decides, else the search would be blind in the first epochs.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

OBJECTIVE = "objective"
"""Name of the number by which the search's scheduler and sampler compare trials."""
TIE = 1e-7
"""More than any loss may count for: scores of fewer than a million tiles lie further apart."""


def best_epoch(epochs: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The epoch of the highest score, of equal ones that of the lowest validation loss; None where none has a score."""
    scored = [epoch for epoch in epochs if epoch["score"] is not None]
    return max(scored, key=objective, default=None)


def objective(epoch: Mapping[str, Any] | None) -> float:
    """One finite number by which epochs are ordered: by score, then by validation loss; the least, 0, for no epoch."""
    if epoch is None or not math.isfinite(epoch["score"]):
        return 0.0
    loss = epoch["valid_loss"]
    return float(epoch["score"]) + (TIE / (1 + max(loss, 0.0)) if math.isfinite(loss) else 0.0)
