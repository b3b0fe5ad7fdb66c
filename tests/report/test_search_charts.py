"""The charts of a search show its trials as they were: by value and by epoch, the best where there are too many."""

import math
from dataclasses import replace

import pytest
from samples import metrics

from saltray.config import choice, loguniform
from saltray.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH
from saltray.report.search_charts import (
    BEST,
    FINISHED,
    MOST_CURVES,
    MOST_DOTS,
    MOST_POINTS,
    OTHER,
    RangeTestCurve,
    SearchedTrial,
    best_first,
    range_test_chart,
    search_charts,
    trial_curves,
    trial_loss_curves,
)


def trial(number: int, status: str, rate: float, wide: bool, score: float | None) -> SearchedTrial:
    values = {"optim.lr": rate, "model.scse": wide}
    return SearchedTrial(name=f"trial-{number:03d}", status=status, values=values, score=score)  # type: ignore[arg-type]


def test_trials_by_their_values() -> None:
    trials = [
        trial(0, "finished", 1e-3, True, 0.6),
        trial(1, "finished", 1e-4, False, 0.5),
        trial(2, "stopped", 1e-5, True, 0.2),
        trial(3, "diverged", 1e-2, False, None),
    ]
    space = {"optim.lr": loguniform(1e-5, 1e-2), "model.scse": choice([False, True])}
    (rate_name, rate), (wide_name, wide) = search_charts(trials, space, "trial-000")
    assert (rate_name, wide_name) == ("optim.lr", "model.scse")
    assert [dot.text for dot in rate.dots] == [
        "trial-001, finished: 0.0001, score 0.5000",
        "trial-002, stopped: 1e-05, score 0.2000",
        "trial-003, diverged: 0.01, no score",
        "trial-000, finished: 0.001, score 0.6000",  # the best one over the others
    ]
    assert [(dot.colour, dot.cross, dot.large) for dot in rate.dots] == [
        (FINISHED, False, False),
        (OTHER, True, False),
        (OTHER, True, False),
        (BEST, False, True),
    ]
    assert rate.dots[1].x < rate.dots[0].x < rate.dots[3].x < rate.dots[2].x
    assert rate.dots[2].y == rate.dots[1].y  # without a score: at the lowest one
    assert [tick.text for tick in wide.x_ticks] == ["false", "true"]
    assert [dot.x for dot in wide.dots] == [wide.x_ticks[place].at for place in (0, 1, 0, 1)]


def test_no_trial_no_chart() -> None:
    assert search_charts([], {"optim.lr": loguniform(1e-5, 1e-2)}, "trial-000") == []


def corners(d: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split() for pair in d[1:].split("L"))]


def with_epochs(trial: SearchedTrial, *scores: float | None) -> SearchedTrial:
    return replace(trial, epochs=[metrics(number, score) for number, score in enumerate(scores, start=1)])


def test_trials_by_epoch() -> None:
    trials = [
        with_epochs(trial(0, "finished", 1e-3, True, 0.6), 0.4, None, 0.6),
        with_epochs(trial(1, "finished", 1e-4, False, 0.5), 0.3, 0.4, 0.5),
        with_epochs(trial(2, "stopped", 1e-5, True, 0.2), 0.2),
        with_epochs(trial(3, "diverged", 1e-2, False, None), 0.3),
        trial(4, "failed", 1e-2, False, None),  # before its first epoch
    ]
    chart = trial_curves(trials, "trial-000")
    assert chart is not None
    assert [path.name for path in chart.paths] == [
        "trial-001, finished after epoch 3: optim.lr 0.0001, model.scse false; best score 0.5000",
        "trial-002, stopped after epoch 1: optim.lr 1e-05, model.scse true; best score 0.2000",
        "trial-003, diverged after epoch 1: optim.lr 0.01, model.scse false",
        "trial-000, finished after epoch 3: optim.lr 0.001, model.scse true; best score 0.6000",
    ]
    assert [(path.colour, path.dashed, path.cross, path.strong) for path in chart.paths] == [
        (FINISHED, False, False, False),
        (OTHER, True, True, False),
        (OTHER, True, True, False),
        (BEST, False, False, True),
    ]
    assert [path.d.count("L") for path in chart.paths] == [2, 0, 0, 1]
    assert chart.paths[0].end[1] > chart.paths[3].end[1]
    assert trial_curves(trials[4:], "trial-000") is None


def test_losses_far_above_the_first_ones_are_left_out() -> None:
    trials = [
        replace(trial(number, status, 1e-3, True, score), epochs=[metrics(at, 0.5) for at in (1, 2, 3)])
        for number, (status, score) in enumerate([("finished", 0.5), ("finished", 0.4), ("diverged", None)])
    ]
    lost = trials[2]
    losses = [replace(epoch, loss=loss) for epoch, loss in zip(lost.epochs, (1.5, 2.0, 1e9), strict=True)]
    chart = trial_loss_curves([*trials[:2], replace(lost, epochs=losses)], "trial-000")
    assert chart is not None
    assert [(path.name[:9], path.d.count("L")) for path in chart.paths] == [
        ("trial-001", 2),
        ("trial-002", 1),
        ("trial-000", 2),
    ]
    assert chart.y_ticks[-1].text == "2.0"
    assert trial_loss_curves([trial(0, "failed", 1e-3, True, None)], "trial-000") is None


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    scores = [0.001 * number for number in range(MOST_POINTS * 3 + 1)]
    long = with_epochs(trial(0, "finished", 1e-3, True, scores[-1]), *scores)
    short = with_epochs(long, *scores[: MOST_POINTS + 1])
    for one in (long, short):
        chart = trial_curves([one], "trial-000")
        assert chart is not None
        (path,) = chart.paths
        points = corners(path.d)
        assert (points[0], points[-1]) == ((LEFT, HEIGHT - BOTTOM), path.end)
        assert path.end[0] == WIDTH - RIGHT
        assert path.end[1] < points[-2][1]
        assert MOST_POINTS // 2 <= len(points) <= MOST_POINTS + 1


def test_of_many_trials_the_best_are_drawn() -> None:
    trials = [
        with_epochs(trial(number, "finished", 1e-3, True, None if number % 3 == 0 else number / 2000), 0.1)
        for number in range(MOST_DOTS + 600)
    ]
    ordered = [one.name for one in best_first(trials)]
    assert ordered[:3] == ["trial-1598", "trial-1597", "trial-1595"]
    assert ordered[-1] == "trial-999"  # without a score, by name
    chart = trial_curves(trials, "trial-1598")
    assert chart is not None
    drawn = {path.name.partition(",")[0] for path in chart.paths}
    assert drawn == set(ordered[:MOST_CURVES])
    ((_, dots),) = search_charts(trials, {"optim.lr": loguniform(1e-5, 1e-2)}, "trial-1598")
    assert {dot.text.partition(",")[0] for dot in dots.dots} == set(ordered[:MOST_DOTS])


def test_a_range_test_until_it_diverges() -> None:
    rates, smooth = [1e-4, 1e-3, 1e-2, 1e-1, 1.0], [1.0, 0.9, 0.5, 1.2, 5.0]
    chart = range_test_chart(RangeTestCurve(rates, [1.1, 0.8, 9.0, 1.3, 5.0], smooth, 1e-3))
    assert chart is not None
    each, average = chart.paths
    at = [tick.at for tick in chart.x_ticks]
    assert [x for x, _ in corners(each.d)] == pytest.approx([at[0], at[1], at[3]], abs=0.11)
    assert [x for x, _ in corners(average.d)] == pytest.approx(at, abs=0.11)
    assert [tick.text for tick in chart.x_ticks] == ["0.0001", "0.001", "0.01", "0.1"]
    gaps = [right.at - left.at for left, right in zip(chart.x_ticks, chart.x_ticks[1:], strict=False)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.2)
    assert [(mark.text, mark.at) for mark in chart.marks] == [("suggested: 0.001", chart.x_ticks[1].at)]


@pytest.mark.parametrize("rates", [(), (0.0,), (1e-3,)])
def test_a_range_test_that_ended_at_once(rates: tuple[float, ...]) -> None:
    chart = range_test_chart(RangeTestCurve(rates, [1.0] * len(rates), [1.0] * len(rates), None))
    assert (chart is not None) == (rates == (1e-3,))
    assert chart is None or (chart.marks, math.isfinite(chart.paths[0].end[0])) == ([], True)
