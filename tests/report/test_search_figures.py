"""The pictures of a search put each trial at its value and score, and mark its status."""

import math

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saltray.config import Choice, Range
from saltray.progress import TrialStatus
from saltray.report.search_figures import BEST, FINISHED, LOST, STOPPED, TrialCurve, draw_range_test, draw_search

RATES = {"optim.lr": Range(1e-4, 1e-2, log=True)}


def trial(
    index: int,
    status: TrialStatus = "finished",
    *,
    score: float | None = None,
    scores: list[float | None] | None = None,
) -> TrialCurve:
    """A trial with a learning rate of 1e-4 times its index."""
    return TrialCurve(
        name=f"trial-{index:03d}",
        status=status,
        values={"optim.lr": index * 1e-4, "train.batch_size": 16 * index, "train.sync_batchnorm": index % 2 == 0},
        score=score,
        epochs=list(enumerate(scores or [], start=1)),
    )


TRIALS = [
    trial(1, score=0.6, scores=[0.5, None, 0.6]),
    trial(2, score=0.8, scores=[0.7, None, 0.8]),
    trial(3, "stopped", score=0.4, scores=[0.4]),
    trial(4, "diverged", scores=[0.3, math.nan]),
    trial(5, "failed"),
]


def marks(axes: Axes) -> list[tuple[float, float, str, str]]:
    """x, y, marker and colour of each mark."""
    found = []
    for line in axes.lines:
        (x,), (y,) = line.get_xdata(), line.get_ydata()
        found.append((float(x), float(y), str(line.get_marker()), str(line.get_color())))
    return found


def curves(axes: Axes) -> list[Line2D]:
    """The lines by epoch, without the marks at their ends."""
    return [line for line in axes.lines if line.get_linestyle() != "None"]


def test_a_trial_is_at_its_value_and_score(drawn: list[Figure]) -> None:
    picture = draw_search(TRIALS, RATES, "trial-002")
    assert picture.startswith(b"\x89PNG\r\n")
    (figure,) = drawn
    scores, _ = figure.axes
    assert marks(scores) == [
        (1e-4, 0.6, "o", FINISHED),
        (2e-4, 0.8, "o", BEST),
        (pytest.approx(3e-4), 0.4, "x", STOPPED),
        (4e-4, 0.4, "v", LOST),  # trials without a score are at the lowest one
        (5e-4, 0.4, "v", LOST),
    ]


def test_the_curves_show_the_scores_that_were_measured(drawn: list[Figure]) -> None:
    draw_search(TRIALS, RATES, "trial-001")
    _, epochs = drawn[0].axes
    lines = curves(epochs)
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in lines] == [
        ([1, 3], [0.7, 0.8]),
        ([1], [0.4]),
        ([1], [0.3]),
        ([1, 3], [0.5, 0.6]),  # the best one last, on top of the others
    ]
    assert [line.get_color() for line in lines] == [FINISHED, STOPPED, LOST, BEST]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "--", "-"]
    ends = [line for line in epochs.lines if line.get_linestyle() == "None"]
    assert [(line.get_xdata()[0], line.get_marker()) for line in ends] == [(3, "o"), (1, "x"), (1, "x"), (3, "o")]


@pytest.mark.parametrize(("log", "scale"), [(True, "log"), (False, "linear")])
def test_a_range_is_an_axis(drawn: list[Figure], log: bool, scale: str) -> None:
    draw_search(TRIALS, {"optim.lr": Range(1e-4, 1e-2, log=log)}, "trial-002")
    scores = drawn[0].axes[0]
    assert (scores.get_xscale(), scores.get_xlim(), scores.get_xlabel()) == (scale, (1e-4, 1e-2), "optim.lr")


def test_choices_are_evenly_spaced_in_their_own_order(drawn: list[Figure]) -> None:
    space = {"train.batch_size": Choice((64, 16, 32)), "train.sync_batchnorm": Choice((True, False))}
    draw_search([trial(1, score=0.6), trial(4, score=0.5)], space, "trial-001")
    sizes, booleans, _ = drawn[0].axes
    assert [text.get_text() for text in sizes.get_xticklabels()] == ["64", "16", "32"]
    assert [x for x, *_ in marks(sizes)] == [1, 0]
    assert [text.get_text() for text in booleans.get_xticklabels()] == ["true", "false"]
    assert [x for x, *_ in marks(booleans)] == [1, 0]


@pytest.mark.parametrize(
    ("trials", "labels"),
    [
        (TRIALS, ["best", "finished", "stopped early", "diverged or failed"]),
        (TRIALS[:2], ["best", "finished"]),
        (TRIALS[4:], ["best", "diverged or failed"]),
    ],
)
def test_the_legend_explains_what_is_there(drawn: list[Figure], trials: list[TrialCurve], labels: list[str]) -> None:
    draw_search(trials, RATES, "trial-002")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == labels


@pytest.mark.parametrize(("fields", "rows", "columns"), [(1, 1, 2), (2, 1, 3), (3, 2, 3)])
def test_at_most_three_panels_side_by_side(drawn: list[Figure], fields: int, rows: int, columns: int) -> None:
    names = ("optim.lr", "train.batch_size", "train.sync_batchnorm")[:fields]
    space = {name: Choice((0,)) if name != "optim.lr" else RATES[name] for name in names}
    draw_search([], space, "trial-000")
    specs = [axes.get_subplotspec() for axes in drawn[0].axes]
    assert len(specs) == fields + 1
    assert {spec.get_geometry()[:2] for spec in specs if spec is not None} == {(rows, columns)}


@pytest.mark.parametrize("suggestion", [2e-3, None])
def test_the_range_test_marks_its_suggestion(drawn: list[Figure], suggestion: float | None) -> None:
    rates, losses, smooth = [1e-4, 1e-3, 1e-2], [1.0, 0.2, 9.0], [1.0, 0.5, 2.0]
    picture = draw_range_test(rates, losses, smooth, suggestion)
    assert picture.startswith(b"\x89PNG\r\n")
    (axes,) = drawn[0].axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["each step", "moving average"] + ["suggested: 0.002"] * (suggestion is not None)
    assert list(lines["each step"].get_ydata()) == losses
    assert list(lines["moving average"].get_ydata()) == smooth
    if suggestion is not None:
        assert list(lines["suggested: 0.002"].get_xdata()) == [suggestion, suggestion]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == pytest.approx((0.4, 1.4))  # a loss that diverges at the end does not set the scale
