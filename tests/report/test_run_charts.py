"""The charts of a run's page show what a calculation by hand gives."""

import re

import numpy as np
import pytest

from saltray.config import choice, loguniform
from saltray.report.run_charts import (
    BEST,
    FINISHED,
    MOST_DOTS,
    OTHER,
    SearchedTrial,
    coverage_bins,
    coverage_chart,
    search_charts,
)


def test_tiles_by_coverage_and_fold() -> None:
    coverage = np.array([0.0, 0.0, 0.05, 0.1, 0.95, 1.0])
    bins = coverage_bins(coverage, np.array([0, 1, 0, 1, 1, 1]), 2)
    names = list(bins)
    assert len(names) == 11
    assert bins[names[0]] == [1, 1]
    assert bins[names[1]] == [1, 0]  # below a tenth
    assert bins[names[2]] == [0, 1]  # a tenth and more
    assert bins[names[10]] == [0, 2]  # up to all of it
    assert sum(map(sum, bins.values())) == 6


def test_bars_are_of_all_tiles_and_dots_of_each_fold() -> None:
    chart = coverage_chart({"none": [3, 1], "some": [1, 1]})
    assert chart is not None
    assert [box.text for box in chart.boxes] == ["none: 66.7%", "some: 33.3%"]
    assert [dot.text for dot in chart.dots] == [
        "fold 0: 75.0%, 3 tiles",
        "fold 1: 50.0%, 1 tiles",
        "fold 0: 25.0%, 1 tiles",
        "fold 1: 50.0%, 1 tiles",
    ]
    assert coverage_chart({"none": [0, 0]}) is None


def test_of_many_folds_the_ends_are_drawn() -> None:
    tiles = list(range(1, MOST_DOTS + 2))
    chart = coverage_chart({"none": tiles, "some": [20] * len(tiles)})
    assert chart is not None
    assert [re.sub(":.*", "", dot.text) for dot in chart.dots[:2]] == ["fold 0", f"fold {MOST_DOTS}"]
    assert len(chart.dots) == 4


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


@pytest.mark.parametrize("count", [1, 999])
def test_any_number_of_folds(count: int) -> None:
    bins = coverage_bins(np.full(count, 0.5), np.arange(count), count)
    chart = coverage_chart(bins)
    assert chart is not None
    assert len(chart.dots) <= 2 * len(bins)
