"""Charts as numbers: the position of each line, bar, dot, tick and mark, for a template to write as SVG.

An SVG takes its colours from the page's style sheet, and so follows the reader's light or dark theme; a PNG could
not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
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
    cross: bool = False
    """Whether it ends in a cross instead of a dot."""
    strong: bool = False
    """Whether it stands out from the others."""


@dataclass(frozen=True)
class Dot:
    """One dot to draw: its text, which a browser shows beside the pointer, its place, and the index of its colour."""

    text: str
    x: float
    y: float
    colour: int = 0
    cross: bool = False
    """Whether it is a cross, for what must be told apart without colours too."""
    large: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar to draw, of a histogram whose bars have names."""

    name: str
    share: float
    """Its height, 0..1."""
    parts: Sequence[tuple[str, float]] = ()
    """Text and height of each part of the whole, to compare with it."""


@dataclass(frozen=True)
class Path:
    """A line in the coordinates of the SVG: `d` of its path, and its last point."""

    name: str
    d: str
    end: tuple[float, float]
    colour: int
    dashed: bool
    cross: bool
    strong: bool


@dataclass(frozen=True)
class Box:
    """A rectangle in the coordinates of the SVG."""

    text: str
    x: float
    y: float
    width: float
    height: float


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
    dots: list[Dot] = field(default_factory=list)
    """In the coordinates of the SVG."""
    boxes: list[Box] = field(default_factory=list)
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
    log_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart | None:
    """A chart of lines, or None if there is no finite point.

    Args:
        lines: what to draw; a point whose y is None, not finite or beyond MOST is left out, and its neighbours are
            joined.
        x_label: name of the x axis.
        y_label: name of the y axis.
        integer_x: ticks are whole numbers, as x is a count.
        log_x: the x axis is logarithmic, and all x are positive.
        marks: x and text of each vertical line.
    """
    kept = [(line, [(x, y) for x, y in line.points if y is not None and abs(y) <= MOST]) for line in lines]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return None
    xs = [x for _, points in kept for x, _ in points] + [x for x, _ in marks]
    ys = [y for _, points in kept for _, y in points]
    place = math.log10 if log_x else float
    x_range = (place(min(xs)), place(max(xs)))
    if log_x:
        x_ticks = [(place(tick), f"{tick:g}") for tick in _decades(*x_range)]
    else:
        x_steps = _steps(*x_range, least=1.0 if integer_x else LEAST)
        x_ticks = [(x, _text(x, x_steps)) for x in x_steps if _within(x, x_range)]
    y_steps = _steps(min(ys), max(ys))
    y_range = (min(*ys, y_steps[0]), max(*ys, y_steps[-1]))
    across, up = partial(_across, limits=x_range), partial(_up, limits=y_range)

    def path(line: Line, points: Sequence[tuple[float, float]]) -> Path:
        at = [(across(place(x)), up(y)) for x, y in points]
        d = "M" + "L".join(f"{x} {y}" for x, y in at)
        colour = line.colour % COLOURS
        return Path(line.name, d, at[-1], colour, dashed=line.dashed, cross=line.cross, strong=line.strong)

    return Chart(
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(across(x), text) for x, text in x_ticks],
        y_ticks=[Tick(up(y), _text(y, y_steps)) for y in y_steps],
        marks=[Tick(across(place(x)), text) for x, text in marks],
        paths=[path(line, points) for line, points in kept],
    )


def dot_chart(
    dots: Sequence[Dot],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    names: Sequence[str] = (),
) -> Chart | None:
    """A chart of dots, or None if there is none.

    Args:
        dots: what to draw; those beyond MOST are left out.
        x_label: name of the x axis.
        y_label: name of the y axis.
        log_x: the x axis is logarithmic, and all x are positive.
        names: of the values 0, 1, .. of x, where these are no numbers.
    """
    dots = [dot for dot in dots if max(abs(dot.x), abs(dot.y)) <= MOST]
    if not dots:
        return None
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    y_steps = _steps(min(ys), max(ys))
    y_range = (min(*ys, y_steps[0]), max(*ys, y_steps[-1]))
    if names:
        x_range = (-0.5, len(names) - 0.5)
        x_ticks = [(float(place), name) for place, name in enumerate(names)]
    elif log_x:
        ends = math.log10(min(xs)), math.log10(max(xs))
        margin = max(0.05 * (ends[1] - ends[0]), 0.2)  # so that a round number is within
        x_range = (ends[0] - margin, ends[1] + margin)
        x_ticks = [(math.log10(tick), f"{tick:g}") for tick in _decades(*x_range)]
    else:
        steps = _steps(min(xs), max(xs))
        x_range = (min(*xs, steps[0]), max(*xs, steps[-1]))
        x_ticks = [(step, _text(step, steps)) for step in steps]
    across, up = partial(_across, limits=x_range), partial(_up, limits=y_range)
    return Chart(
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(across(x), text) for x, text in x_ticks],
        y_ticks=[Tick(up(y), _text(y, y_steps)) for y in y_steps],
        marks=[],
        paths=[],
        dots=[replace(dot, x=across(math.log10(dot.x) if log_x else dot.x), y=up(dot.y)) for dot in dots],
    )


def bar_chart(bars: Sequence[Bar], *, x_label: str, y_label: str, colour: int = 0) -> Chart | None:
    """A histogram whose bars have names, with a dot for each part of a bar; None if there is no bar.

    Args:
        bars: from left to right.
        x_label: name of the x axis.
        y_label: name of the y axis.
        colour: index of the colour of the first part; the others have the following ones.
    """
    if not bars:
        return None
    most = max([0.0, *(bar.share for bar in bars), *(share for bar in bars for _, share in bar.parts)])
    y_steps = _steps(0.0, most or 1.0)
    step = (WIDTH - RIGHT - LEFT) / len(bars)
    inner = 0.8 * step
    up = partial(_up, limits=(0.0, y_steps[-1]))
    boxes, dots = [], []
    for place, bar in enumerate(bars):
        left = LEFT + place * step + (step - inner) / 2
        boxes.append(
            Box(
                f"{bar.name}: {bar.share:.1%}",
                round(left, 1),
                up(bar.share),
                round(inner, 1),
                round(HEIGHT - BOTTOM - up(bar.share), 1),
            )
        )
        for number, (text, share) in enumerate(bar.parts):
            at = left + inner * (number + 0.5) / len(bar.parts)
            dots.append(Dot(text, round(at, 1), up(share), (colour + number) % COLOURS))
    return Chart(
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(round(LEFT + (place + 0.5) * step, 1), bar.name) for place, bar in enumerate(bars)],
        y_ticks=[Tick(up(share), f"{100 * share:g} %") for share in y_steps],
        marks=[],
        paths=[],
        dots=dots,
        boxes=boxes,
    )


def _decades(low: float, high: float) -> list[float]:
    """Round numbers from 10^low to 10^high: powers of ten, and 2 and 5 times these where there are few."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if _within(math.log10(tick), (low, high))]
        if len(ticks) >= 3:
            break
    every = -(-len(ticks) // 8)  # more would overlap
    return ticks[::every]


def _across(x: float, limits: tuple[float, float]) -> float:
    """The horizontal position of a value, of which `limits` fill the width."""
    return round(_scale(x, limits, LEFT, WIDTH - RIGHT), 1)


def _up(y: float, limits: tuple[float, float]) -> float:
    """The vertical position."""
    return round(_scale(y, limits, HEIGHT - BOTTOM, TOP), 1)


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
