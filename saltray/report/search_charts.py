"""The charts of the search that a run took its values from: its trials by value and by epoch, and its range test."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from saltray.config import Choice, Space, Values, value_text
from saltray.progress import TrialStatus
from saltray.report.charts import Chart, Dot, Line, dot_chart, line_chart
from saltray.training.epoch_metrics import EpochMetrics

BEST, FINISHED, OTHER = 1, 0, 3
"""Indices of the colours of a search's trials."""
MOST_DOTS, MOST_CURVES, MOST_POINTS = 1000, 60, 200
"""Trials of a chart by value, trials of the one by epoch, and points of each curve there: a page stays small."""
DIVERGED = 2.0
"""Losses of trials are drawn that are at most so many times the median one after the first epoch."""
HEADROOM = 0.8
"""Of the range test, losses are drawn that are above the first one by this share of the fall from it at most."""


@dataclass(frozen=True, kw_only=True)
class SearchedTrial:
    """A trial of the search that a run took its values from."""

    name: str
    status: TrialStatus
    values: Values
    """Searched field by dotted name -> value."""
    score: float | None
    """Best validation score; None for a trial without one."""
    epochs: Sequence[EpochMetrics] = ()
    """Its epochs, oldest first, where they are drawn."""


@dataclass(frozen=True)
class RangeTestCurve:
    """A learning-rate range test beside the search."""

    rates: Sequence[float]
    """Learning rate of each step, rising."""
    losses: Sequence[float]
    """Training loss of each step."""
    smooth: Sequence[float]
    """Moving average of the losses."""
    suggestion: float | None
    """The rate to start with, if there is one."""


def best_first(trials: Iterable[SearchedTrial]) -> list[SearchedTrial]:
    """The trials by falling score, and last those without one."""
    return sorted(trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0), trial.name))


def search_charts(trials: Sequence[SearchedTrial], space: Space, best: str) -> list[tuple[str, Chart]]:
    """For each searched field its name, and a dot for each trial: its best score by its value of the field.

    Trials without a score are crosses at the lowest one. Of more than `MOST_DOTS` trials, the best are drawn.

    Args:
        trials: all of the search.
        space: searched field by dotted name -> its possible values.
        best: name of the best trial.
    """
    drawn = best_first(trials)[:MOST_DOTS]
    lowest = min((trial.score for trial in drawn if trial.score is not None), default=0.0)
    charts = []
    for field, values in space.items():
        names = [value_text(value) for value in values.values] if isinstance(values, Choice) else []
        dots = []
        for trial in _best_over_others(drawn, best):
            text = value_text(trial.values[field])
            score = "no score" if trial.score is None else f"score {trial.score:.4f}"
            dots.append(
                Dot(
                    f"{trial.name}, {trial.status}: {text}, {score}",
                    float(names.index(text) if names else trial.values[field]),
                    lowest if trial.score is None else trial.score,
                    _colour(trial, best),
                    cross=trial.status != "finished",
                    large=trial.name == best,
                )
            )
        log = not isinstance(values, Choice) and values.log
        chart = dot_chart(dots, x_label=field, y_label="best validation score", log_x=log, names=names)
        if chart is not None:
            charts.append((field, chart))
    return charts


def trial_curves(trials: Sequence[SearchedTrial], best: str) -> Chart | None:
    """The score of each trial by epoch; trials that did not finish are dashed and end in a cross.

    Args:
        trials: those whose epochs are known; of more than `MOST_CURVES`, the best are drawn.
        best: name of the best trial.
    """
    return _curves(trials, best, lambda epoch: epoch.score, "validation score")


def trial_loss_curves(trials: Sequence[SearchedTrial], best: str) -> Chart | None:
    """The training loss of each trial by epoch, as `trial_curves`, without losses that are far above the first ones."""
    first = [trial.epochs[0].loss for trial in trials if trial.epochs]
    highest = DIVERGED * median(first) if first else 0.0
    return _curves(trials, best, lambda epoch: epoch.loss if epoch.loss <= highest else None, "training loss")


def _curves(
    trials: Sequence[SearchedTrial], best: str, value: Callable[[EpochMetrics], float | None], y_label: str
) -> Chart | None:
    lines = []
    for trial in _best_over_others(best_first(trials)[:MOST_CURVES], best):
        points = [(epoch.epoch, y) for epoch in trial.epochs if (y := value(epoch)) is not None]
        every = max(1, -(-len(points) // MOST_POINTS))
        finished = trial.status == "finished"
        lines.append(
            Line(
                _in_words(trial),
                [*points[:-1:every], *points[-1:]],
                _colour(trial, best),
                dashed=not finished,
                cross=not finished,
                strong=trial.name == best,
            )
        )
    return line_chart(lines, x_label="epoch", y_label=y_label, integer_x=True)


def range_test_chart(test: RangeTestCurve) -> Chart | None:
    """The loss by learning rate, until it is far above the first one, and the rate that is suggested."""
    steps = [step for step in zip(test.rates, test.losses, test.smooth, strict=False) if step[0] > 0]
    if not steps:
        return None
    first, lowest = steps[0][2], min(smooth for _, _, smooth in steps)
    highest = first + HEADROOM * ((first - lowest) or 1.0)
    each = [(rate, loss) for rate, loss, _ in steps if loss <= highest]
    smooth = [(rate, loss) for rate, _, loss in steps if loss <= highest]
    return line_chart(
        [Line("each step", each, OTHER), Line("moving average", smooth, FINISHED, strong=True)],
        x_label="learning rate",
        y_label="training loss",
        log_x=True,
        marks=[] if not test.suggestion else [(test.suggestion, f"suggested: {test.suggestion:.2g}")],
    )


def _best_over_others(trials: Iterable[SearchedTrial], best: str) -> list[SearchedTrial]:
    """In their order, but for the best one, which is drawn last."""
    return sorted(trials, key=lambda trial: trial.name == best)


def _colour(trial: SearchedTrial, best: str) -> int:
    return BEST if trial.name == best else FINISHED if trial.status == "finished" else OTHER


def _in_words(trial: SearchedTrial) -> str:
    """What it tried, how far it came, and its best score."""
    values = ", ".join(f"{field} {value_text(value)}" for field, value in trial.values.items())
    score = "" if trial.score is None else f"; best score {trial.score:.4f}"
    return f"{trial.name}, {trial.status} after epoch {trial.epochs[-1].epoch if trial.epochs else 0}: {values}{score}"
