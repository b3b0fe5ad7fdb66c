"""The charts of a run's page: its epochs, its split, its masks' settings, its probabilities and its search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.config import Choice, Space, Values, value_text
from saltray.progress import TrialStatus
from saltray.report.charts import Bar, Chart, Dot, Line, bar_chart, dot_chart, line_chart
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import Reliability

NO_SALT = "none"
"""Name of the histogram's bar of tiles without salt."""
BINS = 10
"""Bars of the tiles with salt, of equal width."""
MOST_DOTS = 12
"""Folds whose dots are drawn beside each other in a bar; of more, the least and the greatest are."""
BEST, FINISHED, OTHER = 1, 0, 3
"""Indices of the colours of a search's trials."""

History = Mapping[int, Sequence[EpochMetrics]]


@dataclass(frozen=True, kw_only=True)
class SearchedTrial:
    """A trial of the search that a run took its values from."""

    name: str
    status: TrialStatus
    values: Values
    """Searched field by dotted name -> value."""
    score: float | None
    """Best validation score; None for a trial without one."""


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


def search_charts(trials: Sequence[SearchedTrial], space: Space, best: str) -> list[tuple[str, Chart]]:
    """For each searched field its name, and a dot for each trial: its best score by its value of the field.

    Trials without a score are crosses at the lowest one.

    Args:
        trials: all of the search.
        space: searched field by dotted name -> its possible values.
        best: name of the best trial.
    """
    lowest = min((trial.score for trial in trials if trial.score is not None), default=0.0)
    charts = []
    for field, values in space.items():
        names = [value_text(value) for value in values.values] if isinstance(values, Choice) else []
        dots = []
        for trial in sorted(trials, key=lambda trial: trial.name == best):  # the best one over the others
            text = value_text(trial.values[field])
            score = "no score" if trial.score is None else f"score {trial.score:.4f}"
            dots.append(
                Dot(
                    f"{trial.name}, {trial.status}: {text}, {score}",
                    float(names.index(text) if names else trial.values[field]),
                    lowest if trial.score is None else trial.score,
                    BEST if trial.name == best else FINISHED if trial.status == "finished" else OTHER,
                    cross=trial.status != "finished",
                    large=trial.name == best,
                )
            )
        log = not isinstance(values, Choice) and values.log
        chart = dot_chart(dots, x_label=field, y_label="best validation score", log_x=log, names=names)
        if chart is not None:
            charts.append((field, chart))
    return charts
