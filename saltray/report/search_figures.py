"""Pictures of a search: score by searched value, and score by epoch of each trial; and of a learning-rate range test.

Finished trials are blue, the best one orange. Trials that were stopped early are grey and dashed and end in a cross, so
that they can be told apart without colours too (Okabe and Ito's colours).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from saltray.config import Choice, Range, Space, Values, value_text
from saltray.progress import TrialStatus
from saltray.report.figures import DPI, INK, to_png

FINISHED, BEST, STOPPED, LOST = "#0072b2", "#d55e00", "#8a939b", "#b8548c"
_SOFT, _RULE = "#5f6973", "#e2e0da"
_COLUMNS = 3
"""Panels side by side."""


@dataclass(frozen=True, kw_only=True)
class TrialCurve:
    """One trial of a search, to be drawn."""

    name: str
    status: TrialStatus
    values: Values
    """Searched field by dotted name -> value."""
    score: float | None
    """Best validation score; None for a trial without one."""
    epochs: Sequence[tuple[int, float | None]]
    """Epoch and its validation score; None in an epoch without validation."""

    @property
    def colour(self) -> str:
        """Of its marks and its line, unless it is the best trial."""
        return {"finished": FINISHED, "stopped": STOPPED}.get(self.status, LOST)

    @property
    def marker(self) -> str:
        """Matplotlib's name of its mark."""
        return {"finished": "o", "stopped": "x"}.get(self.status, "v")


def draw_search(trials: Sequence[TrialCurve], space: Space, best: str) -> bytes:
    """A PNG: the best score of each trial by each searched field, and the score of each trial by epoch.

    Args:
        trials: all trials of the search.
        space: searched field by dotted name -> its possible values.
        best: name of the best trial.
    """
    count = len(space) + 1
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), dpi=DPI, facecolor="white", layout="constrained")
    *by_value, by_epoch = (figure.add_subplot(rows, columns, at + 1) for at in range(count))
    for panel, (field, values) in zip(by_value, space.items(), strict=True):
        _draw_scores(panel, trials, field, values, best)
    _draw_curves(by_epoch, trials, best)
    figure.legend(handles=_legend(trials), loc="outside lower center", ncols=5, frameon=False, labelcolor=INK)
    return to_png(figure)


def draw_range_test(
    rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], suggestion: float | None
) -> bytes:
    """A PNG of loss by learning rate, with the suggested rate marked.

    Args:
        rates: learning rate of each step, rising.
        losses: loss of each step.
        smooth: moving average of the losses.
        suggestion: the rate to mark, if there is one.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, facecolor="white", layout="constrained")
    panel = figure.add_subplot()
    _dress(panel, "learning rate", "training loss")
    panel.set_xscale("log")
    panel.plot(rates, losses, color=STOPPED, linewidth=0.9, alpha=0.7, label="each step")
    panel.plot(rates, smooth, color=FINISHED, linewidth=2.2, label="moving average")
    if suggestion is not None:
        panel.axvline(suggestion, color=BEST, linewidth=1.6, linestyle="--", label=f"suggested: {suggestion:.2g}")
    low, high = min(smooth, default=0.0), max(smooth[:1], default=1.0)
    panel.set_ylim(low - 0.2 * (high - low or 1), high + 0.8 * (high - low or 1))
    panel.legend(frameon=False, labelcolor=INK)
    return to_png(figure)


def _draw_scores(panel: Axes, trials: Sequence[TrialCurve], field: str, values: Range | Choice, best: str) -> None:
    """Best score of each trial by its value of one field; trials without a score are drawn at the lowest one."""
    _dress(panel, field, "best validation score")
    names: list[str] = []
    if isinstance(values, Range):
        panel.set_xscale("log" if values.log else "linear")
        panel.set_xlim(values.low, values.high)
    else:  # evenly spaced, in their own order
        names = [value_text(value) for value in values.values]
        panel.set_xticks(range(len(names)), names)
        panel.set_xlim(-0.5, len(names) - 0.5)
    lowest = min((trial.score for trial in trials if trial.score is not None), default=0.0)
    for trial in trials:
        value, is_best = trial.values[field], trial.name == best
        panel.plot(
            [names.index(value_text(value)) if names else value],
            [lowest if trial.score is None else trial.score],
            linestyle="none",
            marker=trial.marker,
            markersize=10 if is_best else 7,
            markeredgewidth=1.8,
            color=BEST if is_best else trial.colour,
            zorder=4 if is_best else 3,
            clip_on=False,
        )


def _draw_curves(panel: Axes, trials: Sequence[TrialCurve], best: str) -> None:
    """Score of each trial by epoch, the best trial on top."""
    _dress(panel, "epoch", "validation score")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for trial in sorted(trials, key=lambda trial: trial.name == best):
        points = [(epoch, score) for epoch, score in trial.epochs if score is not None and math.isfinite(score)]
        if not points:
            continue
        epochs, scores = zip(*points, strict=True)
        finished, is_best = trial.status == "finished", trial.name == best
        colour = BEST if is_best else trial.colour
        panel.plot(
            epochs,
            scores,
            color=colour,
            linewidth=2.4 if is_best else 1.3,
            linestyle="-" if finished else "--",
            alpha=1.0 if finished else 0.8,
        )
        panel.plot(
            epochs[-1:], scores[-1:], color=colour, marker="o" if finished else "x", markersize=5, linestyle="none"
        )


def _legend(trials: Sequence[TrialCurve]) -> list[Line2D]:
    """An entry for each kind of trial that there is."""
    present = {trial.status for trial in trials}
    entries = [("best", BEST, "o", False)]
    entries += [("finished", FINISHED, "o", False)] if "finished" in present else []
    entries += [("stopped early", STOPPED, "x", True)] if "stopped" in present else []
    entries += [("diverged or failed", LOST, "v", True)] if present & {"diverged", "failed"} else []
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="--" if dashed else "-", label=label)
        for label, colour, marker, dashed in entries
    ]


def _dress(panel: Axes, x: str, y: str) -> None:
    """Labels, grid and colours of a panel."""
    panel.set_xlabel(x, color=_SOFT)
    panel.set_ylabel(y, color=_SOFT)
    panel.grid(color=_RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", colors=_SOFT)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(_SOFT)
