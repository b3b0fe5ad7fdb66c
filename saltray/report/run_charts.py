"""The charts of a run's page: its epochs, its split, its masks' settings and its probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from saltray.report.charts import Bar, Chart, Line, bar_chart, line_chart
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import Reliability

NO_SALT = "none"
"""Name of the histogram's bar of tiles without salt."""
BINS = 10
"""Bars of the tiles with salt, of equal width."""
MOST_DOTS = 12
"""Folds whose dots are drawn beside each other in a bar; of more, the least and the greatest are."""

History = Mapping[int, Sequence[EpochMetrics]]


def coverage_bins(coverage: NDArray[np.float64], fold_of: NDArray[np.int64], count: int) -> dict[str, list[int]]:
    """Tiles by their share of salt: name of a bar -> the tiles of each fold.

    Args:
        coverage: [N], share of salt of each tile.
        fold_of: [N], its fold.
        count: of the folds.
    """
    place = np.where(coverage > 0, 1 + np.minimum((coverage * BINS).astype(np.int64), BINS - 1), 0)
    width = 100 // BINS
    names = [NO_SALT, *(f"\N{LESS-THAN OR EQUAL TO}{width * (number + 1)}" for number in range(BINS))]
    return {name: np.bincount(fold_of[place == number], minlength=count).tolist() for number, name in enumerate(names)}


def coverage_chart(bins: Mapping[str, Sequence[int]]) -> Chart | None:
    """Bars: the share of all tiles. Dots: that of each fold, which a balanced split has at the same height."""
    by_fold = np.array(list(bins.values()), np.float64)
    if not by_fold.sum():
        return None
    shares = by_fold / np.maximum(by_fold.sum(axis=0), 1)
    bars = []
    for (name, tiles), own, total in zip(bins.items(), shares.tolist(), by_fold.sum(axis=1), strict=True):
        parts = [(f"fold {fold}: {share:.1%}, {tiles[fold]} tiles", share) for fold, share in enumerate(own)]
        if len(parts) > MOST_DOTS:
            parts = [min(parts, key=lambda part: part[1]), max(parts, key=lambda part: part[1])]
        bars.append(Bar(name, float(total / by_fold.sum()), parts))
    return bar_chart(bars, x_label="salt in the label, % of the tile", y_label="share of the tiles")


def score_chart(history: History) -> Chart | None:
    """A line for each fold."""
    lines = [
        Line(f"fold {fold}", [(epoch.epoch, epoch.score) for epoch in history[fold]], colour)
        for colour, fold in enumerate(sorted(history))
    ]
    return line_chart(lines, x_label="epoch", y_label="score of the held-out fold at 0.5", integer_x=True)


def loss_chart(history: History) -> Chart | None:
    """Two lines for each fold: of its training, and of its held-out tiles."""
    training, validation = [], []
    for colour, fold in enumerate(sorted(history)):
        epochs = history[fold]
        training.append(Line(f"fold {fold}", [(epoch.epoch, epoch.loss) for epoch in epochs], colour))
        losses = [(epoch.epoch, epoch.valid_loss) for epoch in epochs]
        validation.append(Line(f"fold {fold}", losses, colour, dashed=True))
    return line_chart(training + validation, x_label="epoch", y_label="loss", integer_x=True)


def threshold_chart(curve: Sequence[tuple[float, float]], threshold: float) -> Chart | None:
    """The out-of-fold score at each threshold, and the one that was chosen."""
    return line_chart(
        [Line("all folds", curve)],
        x_label="threshold",
        y_label="out-of-fold score",
        marks=[(threshold, f"chosen: {threshold:g}")],
    )


def reliability_chart(reliability: Reliability) -> Chart | None:
    """Predicted against observed."""
    measured = Line("measured", [(row.predicted, row.observed) for row in reliability.bins], 1)
    # The first line is a scale: without it the axes would end with the probabilities.
    return line_chart(
        [Line("as it should be", [(0.0, 0.0), (1.0, 1.0)], dashed=True), measured] if reliability.bins else [],
        x_label="predicted probability",
        y_label="share of salt",
        marks=[(reliability.largest, f"largest: {reliability.largest:.2f}")],
    )
