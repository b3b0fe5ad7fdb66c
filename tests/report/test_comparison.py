"""The picture of a comparison: each difference at its place, in its colour, beside its numbers."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from saltray.report.comparison import BETTER, UNCLEAR, WORSE, draw_comparison
from saltray.training.evaluation import Interval
from saltray.training.scores import PairedDifference, paired_difference


def row(name: str, low: float, high: float) -> PairedDifference:
    middle = (low + high) / 2
    interval = Interval(low=low, high=high)
    return PairedDifference(name=name, tiles=4000, first=0.5, second=0.5 + middle, interval=interval, probability=0.75)


GROUPS = {
    "all tiles": (row("cross-fitted", 0.01, 0.03), row("at 0.5", -0.01, 0.02)),
    "by fold": (row("fold 0", -0.04, -0.02),),
}


def test_differences_are_where_they_belong(drawn: list[Figure]) -> None:
    assert draw_comparison("r1", "r2", GROUPS).startswith(b"\x89PNG\r\n")
    (figure,) = drawn
    (panel,) = figure.axes
    points = [line for line in panel.lines if line.get_marker() == "o"]
    found = [(float(line.get_xdata()[0]), float(line.get_ydata()[0]), str(line.get_color())) for line in points]
    assert found == [
        (pytest.approx(0.02), 1, BETTER),
        (pytest.approx(0.005), 2, UNCLEAR),
        (pytest.approx(-0.03), 4.6, WORSE),
    ]
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] == [
        pytest.approx((0.01, 0.03)),
        pytest.approx((-0.01, 0.02)),
        pytest.approx((-0.04, -0.02)),
    ]
    low, high = panel.get_xlim()
    assert low == -high  # zero is in the middle
    assert high > 0.04


def test_numbers_stand_beside_each_row(drawn: list[Figure]) -> None:
    draw_comparison("r1", "r2", GROUPS)
    (panel,) = drawn[0].axes
    texts = [text for text in panel.texts if isinstance(text, Annotation)]
    rows = {at: [text.get_text() for text in texts if text.xy[1] == at] for at in (0, 1, 2, 3.6, 4.6)}
    assert rows[0] == ["all tiles", "tiles", "scores", "difference", "better in"]
    assert rows[1] == ["cross-fitted", "4,000", "0.5000 → 0.5200", "+0.0200", "75.0%"]
    assert rows[3.6] == ["by fold"]
    assert rows[4.6][-2:] == ["-0.0300", "75.0%"]
    assert drawn[0].texts[0].get_text() == "r2 against r1"


def test_long_names_and_dollars_are_text(drawn: list[Figure]) -> None:
    long = "s3://bucket/" + "x" * 60 + r"/runs/$\nonsense{$"
    draw_comparison(long, "r2", GROUPS)
    title = drawn[0].texts[0].get_text()
    assert title.startswith("r2 against ...x")
    assert title.endswith(r"/runs/$\nonsense{$")


def test_equal_runs_can_be_drawn() -> None:
    same = paired_difference("cross-fitted", np.array([5, 5]), np.array([5, 5]))
    assert draw_comparison("a", "b", {"all tiles": (same,)}).startswith(b"\x89PNG\r\n")
