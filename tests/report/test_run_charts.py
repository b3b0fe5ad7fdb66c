"""The charts of a run's page show what a calculation by hand gives."""

import re

import numpy as np
import pytest

from saltray.report.run_charts import MOST_DOTS, coverage_bins, coverage_chart


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


@pytest.mark.parametrize("count", [1, 999])
def test_any_number_of_folds(count: int) -> None:
    bins = coverage_bins(np.full(count, 0.5), np.arange(count), count)
    chart = coverage_chart(bins)
    assert chart is not None
    assert len(chart.dots) <= 2 * len(bins)
