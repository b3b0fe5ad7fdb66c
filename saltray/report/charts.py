"""Line charts as numbers: the position of each line, tick and mark, for a template to write as SVG.

An SVG takes its colours from the page's style sheet, and so follows the reader's light or dark theme; a PNG could
not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
LEAST, MOST = 1e-12, 1e15
"""Steps between ticks are no smaller, and points no further from zero: floats beyond leave no round numbers."""
COLOURS = 6
"""Number of colours that the page's style sheet has for lines."""


@dataclass(frozen=True)
class Line:
    """One line to draw: its name, its points, the index of its colour, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Path:
    """A line in the coordinates of the SVG: `d` of its path, and its last point."""

    name: str
    d: str
    end: tuple[float, float]
    colour: int
    dashed: bool


@dataclass(frozen=True)
class Tick:
    """A tick, or a mark across the chart: its position along the axis in the SVG, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """All that the template needs."""

    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Tick]
    paths: list[Path]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    lines: Iterable[Line],
    *,
    x_label: str,
    y_label: str,
    integer_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart | None:
    """A chart of lines, or None if there is no finite point.

    Args:
        lines: what to draw; a point whose y is None, not finite or beyond MOST is left out, and its neighbours are
            joined.
        x_label: name of the x axis.
        y_label: name of the y axis.
        integer_x: ticks are whole numbers, as x is a count.
        marks: x and text of each vertical line.
    """
    kept = [(line, [(x, y) for x, y in line.points if y is not None and abs(y) <= MOST]) for line in lines]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return None
    xs = [x for _, points in kept for x, _ in points] + [x for x, _ in marks]
    ys = [y for _, points in kept for _, y in points]
    x_steps, y_steps = _steps(min(xs), max(xs), least=1.0 if integer_x else LEAST), _steps(min(ys), max(ys))
    x_range, y_range = (min(xs), max(xs)), (min(*ys, y_steps[0]), max(*ys, y_steps[-1]))

    def across(x: float) -> float:
        return round(_scale(x, x_range, LEFT, WIDTH - RIGHT), 1)

    def up(y: float) -> float:
        return round(_scale(y, y_range, HEIGHT - BOTTOM, TOP), 1)

    return Chart(
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(across(x), _text(x, x_steps)) for x in x_steps if _within(x, x_range)],
        y_ticks=[Tick(up(y), _text(y, y_steps)) for y in y_steps],
        marks=[Tick(across(x), text) for x, text in marks],
        paths=[
            Path(
                name=line.name,
                d="M" + "L".join(f"{across(x)} {up(y)}" for x, y in points),
                end=(across(points[-1][0]), up(points[-1][1])),
                colour=line.colour % COLOURS,
                dashed=line.dashed,
            )
            for line, points in kept
        ],
    )


def _scale(value: float, limits: tuple[float, float], start: float, end: float) -> float:
    low, high = limits
    share = (value - low) / (high - low) if high > low else 0.5
    return start + share * (end - start)


def _within(value: float, limits: tuple[float, float]) -> bool:
    slack = 1e-9 * (limits[1] - limits[0])  # 3 * 0.1 is a little more than 0.3
    return limits[0] - slack <= value <= limits[1] + slack


def _steps(low: float, high: float, *, least: float = LEAST) -> list[float]:
    """Five to eleven or so round numbers spanning low..high: 1, 2 or 5 times a power of ten apart, at least `least`."""
    span = high - low
    if span <= LEAST * abs(high):
        span = max(abs(high), LEAST) if high else 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = max(least, next(power * factor for factor in (5, 2, 1) if span / (power * factor) >= 4 or factor == 1))
    first, last = math.floor(low / step + 1e-12), math.ceil(high / step - 1e-12)
    return [index * step for index in range(first, last + 1)]


def _text(value: float, steps: list[float]) -> str:
    step = steps[1] - steps[0] if len(steps) > 1 else abs(value) or 1.0
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
