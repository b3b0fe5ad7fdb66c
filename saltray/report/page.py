"""The page of a run: one HTML file that holds all it shows and asks nothing of the network."""

import base64
import math
from collections.abc import Callable, Mapping
from statistics import fmean, stdev
from typing import Any, TypeGuard

from jinja2 import Environment, PackageLoader, StrictUndefined

from saltray.report.charts import COLOURS, Chart, Line, line_chart

History = dict[int, list[dict[str, Any]]]
_UNKNOWN = "\N{EN DASH}"
_FIGURES = ("score", "score_at_threshold", "iou", "dice", "seconds")


def render_run(
    *,
    run: str,
    results: list[dict[str, Any]],
    balance: list[dict[str, Any]],
    history: History,
    threshold_curve: tuple[list[float], list[float]],
    threshold: float,
    floor: float,
    score: float,
    score_at_threshold: float,
    examples: bytes,
    ensemble: str,
    config: dict[str, Any],
    versions: dict[str, Any],
) -> str:
    """One self-contained HTML page: headline scores, folds, curves, examples, configuration and versions.

    Args:
        run: name of the run.
        results: one a fold: fold, score, score_at_threshold, iou, dice, epochs, seconds.
        balance: one a fold: fold, tiles, empty_share, coverage (both 0..1).
        history: fold -> its epochs, each with epoch, loss, valid_loss, score and lr; None where not measured.
        threshold_curve: thresholds, ascending, and the out-of-fold score at each.
        threshold: the chosen one.
        floor: score of predicting no salt anywhere.
        score: out of fold, at 0.5.
        score_at_threshold: out of fold, at the chosen threshold.
        examples: a PNG.
        ensemble: URI of the published ensemble.
        config: the run's configuration; sections are dictionaries in it.
        versions: library -> version, or None where it is unknown.
    """
    environment = Environment(
        loader=PackageLoader("saltray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, percent=_percent, duration=_duration)
    results = sorted(results, key=lambda result: int(result["fold"]))
    return environment.get_template("run.html.j2").render(
        run=run,
        results=results,
        mean={name: _over(results, name, fmean) for name in _FIGURES},
        spread={name: _over(results, name, stdev) for name in _FIGURES} if len(results) > 1 else None,
        balance=sorted(balance, key=lambda record: int(record["fold"])),
        folds=[(fold, place % COLOURS) for place, fold in enumerate(sorted(history))],
        score_chart=_score_chart(history),
        loss_chart=_loss_chart(history),
        threshold_chart=_threshold_chart(threshold_curve, threshold),
        threshold=threshold,
        floor=floor,
        score=score,
        score_at_threshold=score_at_threshold,
        examples=base64.b64encode(examples).decode(),
        ensemble=ensemble,
        sections=_sections(config),
        versions=sorted(versions.items()),
    )


def _score_chart(history: History) -> Chart | None:
    lines = [_epochs(history, fold, "score", colour) for colour, fold in enumerate(sorted(history))]
    return line_chart(lines, x_label="epoch", y_label="score of the held-out fold at 0.5", whole_x=True)


def _loss_chart(history: History) -> Chart | None:
    lines = [_epochs(history, fold, "loss", colour) for colour, fold in enumerate(sorted(history))]
    lines += [_epochs(history, fold, "valid_loss", colour, dashed=True) for colour, fold in enumerate(sorted(history))]
    return line_chart(lines, x_label="epoch", y_label="loss", whole_x=True)


def _epochs(history: History, fold: int, key: str, colour: int, *, dashed: bool = False) -> Line:
    points = [(float(record["epoch"]), record.get(key)) for record in history[fold]]
    return Line(f"fold {fold}", points, colour, dashed)


def _threshold_chart(curve: tuple[list[float], list[float]], threshold: float) -> Chart | None:
    return line_chart(
        [Line("all folds", list(zip(*curve, strict=True)))],
        x_label="threshold",
        y_label="out-of-fold score",
        marks=[(threshold, f"chosen: {threshold:g}")],
    )


def _over(results: list[dict[str, Any]], name: str, statistic: Callable[[list[float]], float]) -> float | None:
    """A statistic over all folds; None where one of them has no value."""
    values = [result[name] for result in results]
    return statistic(values) if values and all(map(_known, values)) else None


def _sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The configuration by section; what stands in none comes first, in a section without a name."""
    plain = [(name, value) for name, value in config.items() if not isinstance(value, Mapping)]
    nested = [(name, list(value.items())) for name, value in config.items() if isinstance(value, Mapping)]
    return [("", plain), *nested] if plain else nested


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> str:
    return f"{value:.4f}" if _known(value) else _UNKNOWN


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f} %" if _known(value) else _UNKNOWN


def _duration(seconds: float | None) -> str:
    """Seconds as a person says them: 8.4 s, 4 min 12 s, 2 h 05 min."""
    if not _known(seconds):
        return _UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
