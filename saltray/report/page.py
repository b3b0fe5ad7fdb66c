"""The page of a run: one HTML file that holds all it shows and loads nothing from the network."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saltray.config import Config
from saltray.data.folds import FoldBalance
from saltray.report.charts import COLOURS, Chart, Line, line_chart
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import Evaluation, Reliability

_UNKNOWN = "\N{EN DASH}"
_AVERAGED = ("cross_fitted", "score", "iou", "dice", "seconds")
"""Columns of the fold table that have a mean and a standard deviation."""


@dataclass(frozen=True, kw_only=True)
class FoldRow:
    """The results of one fold on its held-out tiles. A number that is not finite is shown as unknown."""

    fold: int
    score: float
    """Competition score at a probability of 0.5."""
    cross_fitted: float
    """The same with the post-processing that was chosen on the other folds."""
    iou: float
    dice: float
    epochs: int
    seconds: float
    """Time in the training loop."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that the page of a run shows."""

    run: str
    """Name of the run."""
    folds: Sequence[FoldRow]
    """One per fold, in any order."""
    balance: Sequence[FoldBalance]
    """One per fold, in any order."""
    history: Mapping[int, Sequence[EpochMetrics]]
    """Fold -> its epochs, oldest first."""
    threshold_curve: Sequence[tuple[float, float]]
    """Thresholds, ascending, and the out-of-fold score at each."""
    threshold: float
    """The chosen threshold."""
    postprocess: str
    """How probabilities become masks, in words."""
    baseline: float
    """Score of predicting no salt anywhere."""
    score: float
    """Out-of-fold score at a probability of 0.5."""
    score_at_threshold: float
    """Out-of-fold score with the post-processing that was chosen on the same predictions."""
    evaluation: Evaluation
    """What the out-of-fold predictions are worth, with the cross-fitted score."""
    examples: bytes
    """A PNG; see `examples.draw_examples`."""
    ensemble: str
    """URI of the published ensemble."""
    config: Config
    versions: Mapping[str, str | None]
    """Library -> version; None if unknown."""


def render_run(report: RunReport) -> str:
    """One self-contained HTML page: headline scores, folds, curves, examples, configuration and versions."""
    environment = Environment(
        loader=PackageLoader("saltray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, percent=_percent, duration=_duration)
    return environment.get_template("run.html.j2").render(
        report=report,
        honest=report.evaluation,
        pixels=f"{sum(row.pixels for row in report.evaluation.reliability.bins):,}",
        folds=sorted(report.folds, key=lambda row: row.fold),
        mean={name: _over(report.folds, name, fmean) for name in _AVERAGED},
        spread={name: _over(report.folds, name, stdev) for name in _AVERAGED} if len(report.folds) > 1 else None,
        balance=sorted(report.balance, key=lambda row: row.fold),
        legend=[(fold, place % COLOURS) for place, fold in enumerate(sorted(report.history))],
        score_chart=_score_chart(report),
        loss_chart=_loss_chart(report),
        threshold_chart=_threshold_chart(report),
        reliability_chart=_reliability_chart(report.evaluation.reliability),
        examples=base64.b64encode(report.examples).decode(),
        sections=_sections(report.config),
        versions=sorted(report.versions.items()),
    )


def _score_chart(report: RunReport) -> Chart | None:
    lines = [
        Line(f"fold {fold}", [(epoch.epoch, epoch.score) for epoch in report.history[fold]], colour)
        for colour, fold in enumerate(sorted(report.history))
    ]
    return line_chart(lines, x_label="epoch", y_label="score of the held-out fold at 0.5", integer_x=True)


def _loss_chart(report: RunReport) -> Chart | None:
    training, validation = [], []
    for colour, fold in enumerate(sorted(report.history)):
        epochs = report.history[fold]
        training.append(Line(f"fold {fold}", [(epoch.epoch, epoch.loss) for epoch in epochs], colour))
        losses = [(epoch.epoch, epoch.valid_loss) for epoch in epochs]
        validation.append(Line(f"fold {fold}", losses, colour, dashed=True))
    return line_chart(training + validation, x_label="epoch", y_label="loss", integer_x=True)


def _threshold_chart(report: RunReport) -> Chart | None:
    return line_chart(
        [Line("all folds", report.threshold_curve)],
        x_label="threshold",
        y_label="out-of-fold score",
        marks=[(report.threshold, f"chosen: {report.threshold:g}")],
    )


def _reliability_chart(reliability: Reliability) -> Chart | None:
    measured = Line("measured", [(row.predicted, row.observed) for row in reliability.bins], 1)
    # The first line is a scale: without it the axes would end with the probabilities.
    return line_chart(
        [Line("as it should be", [(0.0, 0.0), (1.0, 1.0)], dashed=True), measured] if reliability.bins else [],
        x_label="predicted probability",
        y_label="share of salt",
        marks=[(reliability.largest, f"largest: {reliability.largest:.2f}")],
    )


def _over(folds: Sequence[FoldRow], name: str, statistic: Callable[[list[float]], float]) -> float:
    """A statistic over all folds; NaN if it is unknown for one of them."""
    values = [float(getattr(row, name)) for row in folds]
    return statistic(values) if all(map(math.isfinite, values)) else math.nan


def _sections(config: Config) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The configuration by section; fields outside any section come first, in one without a name."""
    values = asdict(config)
    plain = [(name, value) for name, value in values.items() if not isinstance(value, dict)]
    return [("", plain), *((name, list(value.items())) for name, value in values.items() if isinstance(value, dict))]


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else _UNKNOWN


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else _UNKNOWN


def _duration(seconds: float) -> str:
    """Seconds for people: 8.4 s, 4 min 12 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return _UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
