"""The page of a run: one HTML file that holds all it shows and loads nothing from the network."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev
from typing import Any

from saltray.config import Config, Space, Values, value_text
from saltray.data.folds import FoldBalance
from saltray.report.charts import COLOURS
from saltray.report.run_charts import (
    coverage_chart,
    loss_chart,
    reliability_chart,
    score_chart,
    threshold_chart,
)
from saltray.report.search_charts import (
    MOST_CURVES,
    MOST_DOTS,
    RangeTestCurve,
    SearchedTrial,
    range_test_chart,
    search_charts,
    trial_curves,
    trial_loss_curves,
)
from saltray.report.templating import script_source, template
from saltray.report.tile_pictures import TileView
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import Evaluation

_AVERAGED = ("cross_fitted", "score", "iou", "dice")
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
    started: float
    """When training began: seconds since 1970."""
    finished: float
    """When the fold was done: seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The search that a run took values from."""

    uri: str
    trial: str
    """Name of its best trial."""
    values: Values
    """The values that the run uses."""
    score: float
    """Best validation score of that trial."""
    count: int
    """Trials of the search when the values were taken."""
    trials: Sequence[SearchedTrial]
    """All of them; none where they cannot be read. Of more than `MOST_CURVES`, the best have their epochs."""
    space: Space
    """Searched field by dotted name -> its possible values."""
    faults: Sequence[str] = ()
    """What of it cannot be shown, and why."""
    range_test: RangeTestCurve | None = None
    """The one beside the search, if there is one."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that the page of a run shows."""

    run: str
    """Name of the run."""
    folds: Sequence[FoldRow]
    """One per fold, in any order."""
    balance: Sequence[FoldBalance]
    """One per fold, in any order."""
    coverage: Mapping[str, Sequence[int]]
    """See `run_charts.coverage_bins`."""
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
    examples: Sequence[TileView]
    """The best, median and worst tiles."""
    search: SearchReport | None
    """The search that the configuration's values come from, where there was one."""
    ensemble: str
    """URI of the published ensemble."""
    uri: str
    """Of the run."""
    config: Config
    versions: Mapping[str, str | None]
    """Library -> version; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class _Time:
    """How long a fold took, and how fast it was."""

    fold: int
    epochs: int
    seconds: float
    epoch: float
    """Median of the seconds of an epoch; NaN where there is no history, as is the next."""
    speed: float
    """Median of the images per second, of all ranks together."""


def render_run(report: RunReport) -> str:
    """One self-contained HTML page: headline scores, folds, tiles, curves, cost, configuration and versions."""
    folds = sorted(report.folds, key=lambda row: row.fold)
    search = report.search
    unit, hours = _cost(report)
    script, source = script_source("near.js")
    return template("run.html.j2").render(
        report=report,
        honest=report.evaluation,
        pixels=f"{sum(row.pixels for row in report.evaluation.reliability.bins):,}",
        tiles=f"{sum(row.tiles for row in report.balance):,}",
        folds=folds,
        mean={name: _over(folds, name, fmean) for name in _AVERAGED},
        spread={name: _over(folds, name, stdev) for name in _AVERAGED} if len(folds) > 1 else None,
        balance=sorted(report.balance, key=lambda row: row.fold),
        legend=[(fold, place % COLOURS) for place, fold in enumerate(sorted(report.history))],
        coverage_chart=coverage_chart(report.coverage),
        score_chart=score_chart(report.history),
        loss_chart=loss_chart(report.history),
        threshold_chart=threshold_chart(report.threshold_curve, report.threshold),
        reliability_chart=reliability_chart(report.evaluation.reliability),
        search_charts=[] if search is None else search_charts(search.trials, search.space, search.trial),
        trial_curves=None if search is None else trial_curves(search.trials, search.trial),
        trial_loss_curves=None if search is None else trial_loss_curves(search.trials, search.trial),
        range_test=None if search is None or search.range_test is None else range_test_chart(search.range_test),
        most_dots=MOST_DOTS,
        most_curves=MOST_CURVES,
        searched=[] if search is None else [(name, value_text(value)) for name, value in search.values.items()],
        script=script,
        source=source,
        times=[_time(row, report.history.get(row.fold, ())) for row in folds],
        seconds=sum(row.seconds for row in folds),
        elapsed=max(row.finished for row in folds) - min(row.started for row in folds),
        unit=unit,
        hours=hours,
        command=f"saltray report {shlex.quote(report.uri)} --tile ID",
        sections=_sections(report.config),
        versions=sorted(report.versions.items()),
    )


def _time(row: FoldRow, epochs: Sequence[EpochMetrics]) -> _Time:
    return _Time(
        fold=row.fold,
        epochs=row.epochs,
        seconds=row.seconds,
        epoch=median(epoch.seconds for epoch in epochs) if epochs else math.nan,
        speed=median(epoch.images_per_second for epoch in epochs) if epochs else math.nan,
    )


def _cost(report: RunReport) -> tuple[str, float]:
    """What the training of all folds cost: hours of GPUs, of a shared one its share; else of CPUs, or of ranks."""
    cluster, device = report.config.cluster, report.evaluation.device
    hours = sum(row.seconds for row in report.folds) * cluster.workers_per_fold / 3600
    gpus = cluster.gpus_per_worker
    if gpus is None and device is not None:  # one for each rank where there were any
        gpus = 0.0 if device == "CPU" else 1.0
    if gpus:
        return "GPU hours", gpus * hours
    if gpus is not None and cluster.cpus_per_worker is not None:
        return "CPU hours", cluster.cpus_per_worker * hours
    return "hours of ranks", hours


def _over(folds: Sequence[FoldRow], name: str, statistic: Callable[[list[float]], float]) -> float:
    """A statistic over all folds; NaN if it is unknown for one of them."""
    values = [float(getattr(row, name)) for row in folds]
    return statistic(values) if all(map(math.isfinite, values)) else math.nan


def _sections(config: Config) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The configuration by section; fields outside any section come first, in one without a name."""
    values = asdict(config)
    plain = [(name, value) for name, value in values.items() if not isinstance(value, dict)]
    return [("", plain), *((name, list(value.items())) for name, value in values.items() if isinstance(value, dict))]
