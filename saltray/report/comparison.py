"""A picture of two runs side by side: the difference of their scores, with its interval, over all tiles and by part.

Where the interval leaves out zero, the row is blue (the second run is better) or orange (the first is); else it is
grey. The numbers stand beside each row, so that nothing depends on colours.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saltray.report.figures import DPI, INK, to_png
from saltray.training.scores import PairedDifference

BETTER, WORSE, UNCLEAR = "#0072b2", "#d55e00", "#8a939b"
_SOFT, _RULE = "#5f6973", "#e2e0da"
_ROW = 0.3
"""Height of a row in inches."""
_GAP = 0.6
"""Rows that are left free between groups."""
_TOP, _BOTTOM = 1.05, 0.75
"""Margins in inches; the title is in the top one, the axis in the bottom one."""
_WIDTH, _LEFT, _RIGHT = 10.6, 2.35, 3.75
"""Width of the picture, and its margins for names and for numbers, in inches."""
_COLUMNS = ((0.20, "tiles"), (0.76, "scores"), (2.13, "difference"), (2.95, "better in"))
"""Inches from the right end of the panel, and head, of each column of numbers."""


def draw_comparison(first: str, second: str, groups: Mapping[str, Sequence[PairedDifference]]) -> bytes:
    """A PNG: a row for each difference, below the head of its group.

    Args:
        first: name of the first run.
        second: name of the second.
        groups: head -> its rows; the first row of all is drawn bold.
    """
    lines = sum(len(rows) + 1 for rows in groups.values()) + _GAP * (len(groups) - 1)
    height = _TOP + lines * _ROW + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    panel = figure.add_axes(
        (_LEFT / _WIDTH, _BOTTOM / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, lines * _ROW / height)
    )
    _dress(panel, lines, second)
    at = 0.0
    for head, rows in groups.items():
        _write(panel, at, -_LEFT + 0.3, head, weight="bold")
        if at == 0:
            for place, text in _COLUMNS:
                _write(panel, at, _WIDTH - _LEFT - _RIGHT + place, text, colour=_SOFT)
        for number, row in enumerate(rows, start=1):
            _draw_row(panel, at + number, row, bold=at + number == 1)
        at += len(rows) + 1 + _GAP
    reach = max((abs(end) for rows in groups.values() for row in rows for end in _ends(row)), default=0.0) or 0.01
    panel.set_xlim(-1.08 * reach, 1.08 * reach)
    title = f"{_short(second)} against {_short(first)}"
    told = (
        "Difference of the score on held-out tiles, its 95 % interval by paired bootstrap over tiles, "
        "and the share of resamples in which it is better"
    )
    at_left = 0.3 / _WIDTH
    figure.text(
        at_left, 1 - 0.28 / height, title, fontsize=13, fontweight="bold", color=INK, va="top", parse_math=False
    )
    figure.text(at_left, 1 - 0.6 / height, told, fontsize=9, color=_SOFT, va="top")
    return to_png(figure)


def _dress(panel: Axes, lines: float, second: str) -> None:
    """Axis, grid and colours of the panel."""
    panel.set_ylim(lines - 0.5, -0.5)
    panel.set_yticks([])
    panel.axvline(0, color=INK, linewidth=1.0)
    panel.grid(axis="x", color=_RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_SOFT, labelsize=8.5, length=0)
    panel.spines[["left", "right", "top"]].set_visible(False)
    panel.spines["bottom"].set_color(_RULE)
    panel.locator_params(axis="x", nbins=7)
    panel.set_xlabel(
        f"right of zero: {_short(second)} is better", color=_SOFT, fontsize=9, labelpad=6, parse_math=False
    )


def _draw_row(panel: Axes, at: float, row: PairedDifference, *, bold: bool) -> None:
    """The point and the interval of one difference, and its numbers."""
    low, high = row.interval.low, row.interval.high
    colour = BETTER if low > 0 else WORSE if high < 0 else UNCLEAR
    thick = 0.34 if bold else 0.22
    panel.add_patch(Rectangle((low, at - thick / 2), high - low, thick, color=colour, alpha=0.35, linewidth=0))
    panel.plot([row.difference], [at], marker="o", color=colour, markersize=7.5 if bold else 5.5, clip_on=False)
    weight = "bold" if bold else "normal"
    end = _WIDTH - _LEFT - _RIGHT
    _write(panel, at, -_LEFT + 0.3, row.name, weight=weight)
    texts = (
        f"{row.tiles:,}",
        f"{row.first:.4f} → {row.second:.4f}",
        f"{row.difference:+.4f}",
        f"{row.probability:.1%}",
    )
    for (place, _), text in zip(_COLUMNS, texts, strict=True):
        _write(panel, at, end + place, text, weight=weight)


def _write(panel: Axes, at: float, inches: float, text: str, *, weight: str = "normal", colour: str = INK) -> None:
    """Text at a row, so many inches from the left end of the panel."""
    panel.annotate(
        text,
        xy=(inches / (_WIDTH - _LEFT - _RIGHT), at),
        xycoords=("axes fraction", "data"),
        fontsize=9,
        fontweight=weight,
        color=colour,
        va="center",
        annotation_clip=False,
        parse_math=False,
    )


def _ends(row: PairedDifference) -> tuple[float, float, float]:
    return row.interval.low, row.difference, row.interval.high


def _short(name: str) -> str:
    """The end of a name that is too long for the picture."""
    return name if len(name) <= 48 else f"...{name[-45:]}"
