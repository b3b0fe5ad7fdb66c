"""The probability above which a pixel is salt."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.training.metrics import score_at_thresholds

GRID = tuple(round(0.20 + 0.02 * step, 2) for step in range(31))
"""The candidates: 0.20, 0.22, .. 0.80."""


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold, and the scores that it was chosen by."""

    threshold: float
    """The threshold of the best score; of several the one nearest to 0.5."""
    score: float
    """Competition score at `threshold`, 0..1."""
    thresholds: tuple[float, ...]
    """All candidates."""
    scores: tuple[float, ...]
    """Competition score at each candidate."""


def choose_threshold(
    probabilities: NDArray[np.floating], masks: NDArray[np.uint8], thresholds: tuple[float, ...] = GRID
) -> ThresholdChoice:
    """The threshold of the highest competition score on out-of-fold predictions.

    Args:
        probabilities: [N, H, W], each predicted by a model that did not see the tile.
        masks: [N, H, W] of 0 and 1.
        thresholds: candidates.
    """
    scores = tuple(float(score) for score in score_at_thresholds(probabilities, masks, thresholds))
    best = max(range(len(thresholds)), key=lambda at: (scores[at], -abs(thresholds[at] - 0.5)))
    return ThresholdChoice(thresholds[best], scores[best], thresholds, scores)
