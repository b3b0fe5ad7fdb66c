"""Pictures of a search: which values scored how, and how its trials went; and of a learning-rate range test.

Finished trials are blue, the best one orange; those that were stopped early are grey, dashed and end in a cross, so
that they can be told apart without colours too (Okabe and Ito's colours).
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

FINISHED, BEST, STOPPED, LOST = "#0072b2", "#d55e00", "#8a939b", "#b8548c"
_INK, _SOFT, _RULE = "#1d2329", "#5f6973", "#e2e0da"
_DPI = 144
_COLUMNS = 3
"""Panels side by side."""


def draw_search(trials: Sequence[Mapping[str, Any]], space: Mapping[str, str], best: str) -> bytes:
    """A PNG: the best score of each trial against each searched field, and the score of each trial by epoch.

    Args:
        trials: one each: name, status (finished, stopped, diverged, failed), values (field -> value), score (None where
            it has none) and epochs, (epoch, score or None) each.
        space: searched field -> how it was described; a field of `log:LOW:HIGH` gets a logarithmic axis.
        best: name of the best trial.
    """
    panels = len(space) + 1
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), dpi=_DPI, facecolor="white", layout="constrained")
    axes = [figure.add_subplot(rows, columns, at + 1) for at in range(panels)]
    for axis, (field, text) in zip(axes, space.items(), strict=False):
        _scores(axis, trials, field, text, best)
    _curves(axes[-1], trials, best)
    figure.legend(handles=_legend(trials), loc="outside lower center", ncols=5, frameon=False, labelcolor=_INK)
    return _png(figure)


def draw_range_test(
    rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], suggestion: float | None
) -> bytes:
    """A PNG of loss against learning rate, with the suggested rate marked.

    Args:
        rates: learning rate of each step, rising.
        losses: loss of each step.
        smooth: moving average of the losses.
        suggestion: the rate to mark, if there is one.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=_DPI, facecolor="white", layout="constrained")
    axis = figure.add_subplot()
    _dress(axis, "learning rate", "training loss")
    axis.set_xscale("log")
    axis.plot(rates, losses, color=STOPPED, linewidth=0.9, alpha=0.7, label="each step")
    axis.plot(rates, smooth, color=FINISHED, linewidth=2.2, label="moving average")
    if suggestion is not None:
        axis.axvline(suggestion, color=BEST, linewidth=1.6, linestyle="--", label=f"suggested: {suggestion:.2g}")
    low, high = min(smooth, default=0.0), max(smooth[:1], default=1.0)
    axis.set_ylim(low - 0.2 * (high - low or 1), high + 0.8 * (high - low or 1))
    axis.legend(frameon=False, labelcolor=_INK)
    return _png(figure)


def _scores(axis: Axes, trials: Sequence[Mapping[str, Any]], field: str, text: str, best: str) -> None:
    _dress(axis, field, "best validation score")
    values = [trial["values"][field] for trial in trials]
    names: list[str] = []
    if text.startswith(("log:", "lin:")):
        kind, low, high = text.split(":")
        axis.set_xscale("log" if kind == "log" else "linear")
        axis.set_xlim(float(low), float(high))
    else:  # a list of values: evenly spaced, in its own order
        names = text.split(",")
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.5, len(names) - 0.5)
    floor = min((trial["score"] for trial in trials if trial["score"] is not None), default=0.0)
    for trial, value in zip(trials, values, strict=True):
        at = names.index(_text(value)) if names else value
        lost = trial["score"] is None
        axis.plot(
            [at],
            [floor if lost else trial["score"]],
            linestyle="none",
            marker={"finished": "o", "stopped": "x"}.get(trial["status"], "v"),
            markersize=10 if trial["name"] == best else 7,
            markeredgewidth=1.8,
            color=_colour(trial, best),
            zorder=4 if trial["name"] == best else 3,
            clip_on=False,
        )


def _curves(axis: Axes, trials: Sequence[Mapping[str, Any]], best: str) -> None:
    _dress(axis, "epoch", "validation score")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for trial in sorted(trials, key=lambda trial: trial["name"] == best):  # the best one on top
        points = [(epoch, score) for epoch, score in trial["epochs"] if score is not None and math.isfinite(score)]
        if not points:
            continue
        epochs, scores = zip(*points, strict=True)
        finished = trial["status"] == "finished"
        colour = _colour(trial, best)
        axis.plot(
            epochs,
            scores,
            color=colour,
            linewidth=2.4 if trial["name"] == best else 1.3,
            linestyle="-" if finished else "--",
            alpha=1.0 if finished else 0.8,
        )
        axis.plot(
            epochs[-1:], scores[-1:], color=colour, marker="o" if finished else "x", markersize=5, linestyle="none"
        )


def _colour(trial: Mapping[str, Any], best: str) -> str:
    if trial["name"] == best:
        return BEST
    return {"finished": FINISHED, "stopped": STOPPED}.get(trial["status"], LOST)


def _legend(trials: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    there = {trial["status"] for trial in trials}
    entries = [("best", BEST, "o", True, True), ("finished", FINISHED, "o", True, "finished" in there)]
    entries += [("stopped early", STOPPED, "x", False, "stopped" in there)]
    entries += [("diverged or failed", LOST, "v", False, bool(there & {"diverged", "failed"}))]
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="-" if whole else "--", label=label)
        for label, colour, marker, whole, shown in entries
        if shown
    ]


def _dress(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, color=_SOFT)
    axis.set_ylabel(y, color=_SOFT)
    axis.grid(color=_RULE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=_SOFT)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(_SOFT)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": "saltray"})
    return buffer.getvalue()
