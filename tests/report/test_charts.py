"""Points, ticks and marks of a chart are where a calculation by hand puts them."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltray.report.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Bar,
    Chart,
    Dot,
    Line,
    bar_chart,
    dot_chart,
    line_chart,
)

FLOATS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))


def chart_of(points: list[tuple[float, float | None]], *, integer_x: bool = False) -> Chart:
    chart = line_chart([Line("a", points)], x_label="x", y_label="y", integer_x=integer_x)
    assert chart is not None
    return chart


def corners(d: str) -> list[tuple[float, float]]:
    assert re.fullmatch(r"M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)*", d)
    return [(float(x), float(y)) for x, y in (pair.split() for pair in d[1:].split("L"))]


def test_points_fill_the_chart() -> None:
    chart = chart_of([(0, 0), (5, 1), (10, 0.5)])
    middle = (TOP + HEIGHT - BOTTOM) / 2
    expected = [(LEFT, HEIGHT - BOTTOM), ((LEFT + WIDTH - RIGHT) / 2, TOP), (WIDTH - RIGHT, middle)]
    assert corners(chart.paths[0].d) == expected
    assert chart.paths[0].end == expected[-1]


def test_ticks_are_round() -> None:
    chart = chart_of([(0.1, 0.68), (0.9, 0.84)])
    assert [tick.text for tick in chart.x_ticks] == ["0.2", "0.4", "0.6", "0.8"]
    assert [tick.text for tick in chart.y_ticks] == [f"0.{n}" for n in range(68, 86, 2)]


def test_the_last_tick_survives_rounding() -> None:
    # 3 * 0.1 is greater than 0.3 in binary.
    assert [tick.text for tick in chart_of([(0.0, 0), (0.3, 1)]).x_ticks][-1] == "0.30"
    assert [tick.text for tick in chart_of([(-0.1, 0), (0.3, 1)]).x_ticks] == ["-0.1", "0.0", "0.1", "0.2", "0.3"]


def test_epochs_are_whole_numbers() -> None:
    assert [tick.text for tick in chart_of([(1, 0), (3, 1)], integer_x=True).x_ticks] == ["1", "2", "3"]
    assert [tick.text for tick in chart_of([(0, 0), (60, 1)], integer_x=True).x_ticks] == list("0") + [
        str(n) for n in range(10, 61, 10)
    ]


def test_what_was_not_measured_is_left_out() -> None:
    whole, gaps = (
        chart_of([(1, 0.5), (2, None), (3, math.nan), (4, math.inf), (5, 0.7)]),
        chart_of([(1, 0.5), (5, 0.7)]),
    )
    assert whole == gaps


def test_nothing_to_draw() -> None:
    assert line_chart([], x_label="x", y_label="y") is None
    assert line_chart([Line("a", [(1, None)]), Line("b", [])], x_label="x", y_label="y") is None


def test_a_line_without_points_is_dropped() -> None:
    chart = line_chart([Line("a", [(1, None)]), Line("b", [(1, 2), (2, 3)])], x_label="x", y_label="y")
    assert chart is not None
    assert [path.name for path in chart.paths] == ["b"]


def test_colours_repeat_after_the_last() -> None:
    lines = [Line(str(n), [(0, 0), (1, n)], colour=n) for n in range(COLOURS + 2)]
    chart = line_chart(lines, x_label="x", y_label="y")
    assert chart is not None
    assert [path.colour for path in chart.paths] == [*range(COLOURS), 0, 1]


def test_a_mark_is_at_its_x() -> None:
    chart = line_chart([Line("a", [(0, 0), (1, 1)])], x_label="x", y_label="y", marks=[(0.25, "here"), (2, "beyond")])
    assert chart is not None
    assert [(mark.at, mark.text) for mark in chart.marks] == [
        (pytest.approx(LEFT + (WIDTH - RIGHT - LEFT) / 8, abs=0.06), "here"),
        (WIDTH - RIGHT, "beyond"),
    ]


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8), st.booleans())
def test_everything_lies_inside(points: list[tuple[float, float | None]], integer_x: bool) -> None:
    chart = chart_of(points, integer_x=integer_x)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in corners(chart.paths[0].d))
    assert all(LEFT <= tick.at <= WIDTH - RIGHT for tick in chart.x_ticks)
    assert all(TOP <= tick.at <= HEIGHT - BOTTOM for tick in chart.y_ticks)
    assert len(chart.x_ticks) <= 12
    assert 1 <= len(chart.y_ticks) <= 12
    texts = [float(tick.text) for tick in chart.y_ticks]
    assert texts == sorted(set(texts))
    lowest, highest = min(y for _, y in points if y is not None), max(y for _, y in points if y is not None)
    if lowest < highest:
        assert texts[0] <= lowest + 1e-9
        assert texts[-1] >= highest - 1e-9


@given(st.lists(st.tuples(st.integers(0, 10**4), st.floats()), min_size=1, max_size=20))
def test_any_float_is_drawn_or_left_out(points: list[tuple[float, float]]) -> None:
    chart = line_chart([Line("a", points)], x_label="x", y_label="y", integer_x=True)
    shown = [y for _, y in points if abs(y) <= 1e15]
    assert (chart is None) == (not shown)
    if chart is not None:
        assert 1 <= len(chart.y_ticks) <= 14
        assert all(len(tick.text) < 40 for tick in chart.y_ticks)
        assert all(TOP - 1 <= y <= HEIGHT - BOTTOM + 1 for _, y in corners(chart.paths[0].d))


def dots_of(*places: tuple[float, float], **settings: Any) -> Chart:
    dots = [Dot(f"{x:g}", x, y) for x, y in places]
    chart = dot_chart(dots, x_label="x", y_label="y", **settings)
    assert chart is not None
    return chart


def test_dots_on_a_logarithmic_axis() -> None:
    chart = dots_of((1e-4, 0.0), (1e-3, 0.5), (1e-2, 1.0), log_x=True)
    low, middle, high = (dot.x for dot in chart.dots)
    assert middle - low == pytest.approx(high - middle, abs=0.2)
    assert LEFT < low < high < WIDTH - RIGHT
    assert [dot.y for dot in chart.dots] == [HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2, TOP]
    at = {tick.text: tick.at for tick in chart.x_ticks}
    assert (at["0.0001"], at["0.001"], at["0.01"]) == (low, middle, high)


def test_dots_of_values_that_are_no_numbers() -> None:
    chart = dots_of((0, 0.5), (1, 0.6), (2, 0.7), names=["a", "b", "c"])
    assert [(tick.text, tick.at) for tick in chart.x_ticks] == [
        (name, dot.x) for name, dot in zip("abc", chart.dots, strict=True)
    ]


def test_one_dot_and_none() -> None:
    for settings in ({}, {"log_x": True}, {"names": ["a", "b"]}):
        (dot,) = dots_of((1.0, 0.5), **settings).dots
        assert LEFT <= dot.x <= WIDTH - RIGHT
        assert TOP <= dot.y <= HEIGHT - BOTTOM
    assert dot_chart([], x_label="x", y_label="y") is None
    assert dot_chart([Dot("far", 1e300, 0.0)], x_label="x", y_label="y") is None


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=20))
def test_a_logarithmic_axis_has_few_ticks_within_it(powers: list[float]) -> None:
    chart = dots_of(*((10.0**power, 0.5) for power in powers), log_x=True)
    assert 1 <= len(chart.x_ticks) <= 8
    assert all(LEFT <= tick.at <= WIDTH - RIGHT for tick in chart.x_ticks)


def test_bars_and_the_dots_of_their_parts() -> None:
    chart = bar_chart(
        [Bar("none", 0.4, [("fold 0", 0.2), ("fold 1", 0.4)]), Bar("some", 0.2)], x_label="x", y_label="y"
    )
    assert chart is not None
    tall, short = chart.boxes
    assert (tall.y, tall.y + tall.height) == (TOP, HEIGHT - BOTTOM)
    assert short.height == pytest.approx(tall.height / 2)
    low, high = chart.dots
    assert tall.x < low.x < high.x < tall.x + tall.width
    assert (low.y, high.y) == (short.y, TOP)
    assert (low.colour, high.colour) == (0, 1)
    assert [tick.text for tick in chart.y_ticks] == ["0 %", "10 %", "20 %", "30 %", "40 %"]
    assert bar_chart([], x_label="x", y_label="y") is None
