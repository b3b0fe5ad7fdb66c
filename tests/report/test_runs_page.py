"""The page of a store, as text and in a browser, where its rows are sorted."""

from dataclasses import replace

import pytest
from playwright.sync_api import Page

from saltray.report.runs_page import OpenRun, RunLine, RunsReport, render_runs
from saltray.training.evaluation import Interval

from .conftest import OpenPage, check_layout

LINE = RunLine(
    run="r1",
    score=0.7,
    interval=Interval(low=0.68, high=0.72),
    spread=0.01,
    plain=0.69,
    baseline=0.39,
    recipe=None,
    network="albunet (resnet50), 32 filters",
    lr=0.001,
    epochs=9,
    folds=5,
    tiles=4000,
    seconds=7265.0,
    finished=1_800_000_000.0,
    ensemble="v1",
    comparable="one",
)
OLD = replace(LINE, run="old", score=None, interval=None, spread=None, plain=0.5, epochs=50, seconds=3.0)
BETTER = replace(
    LINE,
    run="the-better-one-of-a-very-long-name-indeed",
    score=0.8,
    interval=Interval(low=0.79, high=0.81),
    recipe="best-2",
    epochs=100,
    seconds=100.0,
    comparable="two",
)
OTHERS = [
    OpenRun(run="half", state="running", done=2, count=5, told=""),
    OpenRun(run="bad", state="corrupted", done=0, count=0, told="s3://bucket/runs/bad/manifest.json: not JSON <b>"),
]
REPORT = RunsReport(store="s3://bucket/my store", finished=[OLD, LINE, BETTER], others=OTHERS)


def names(page: Page) -> list[str]:
    return [text[:3] for text in page.locator(".sortable tbody td:first-child").all_inner_texts()]


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(open_page: OpenPage, width: int, scheme: str) -> None:
    page = open_page(render_runs(REPORT), width=width, scheme=scheme)
    check_layout(page)
    assert names(page) == ["the", "r1", "old"]  # by score; without one last
    assert "2 h 01 min" in page.inner_text(".sortable tbody")
    assert "0.680 to 0.720" in page.inner_text(".sortable tbody")
    others = page.inner_text(".others")
    for told in ("half", "running", "2 of 5", "not JSON <b>"):
        assert told in others
    assert "--store 's3://bucket/my store'" in page.inner_text("main")


def test_rows_are_sorted_by_any_column(open_page: OpenPage) -> None:
    page = open_page(render_runs(REPORT))
    for column, orders in {
        "epochs": (["r1", "old", "the"], ["the", "old", "r1"]),  # as numbers: 9, 50, 100
        "time": (["old", "the", "r1"], ["r1", "the", "old"]),
        "run": (["old", "r1", "the"], ["the", "r1", "old"]),
        "score": (["the", "r1", "old"], ["r1", "the", "old"]),  # what is unknown stays last
    }.items():
        for order, direction in zip(orders, ("ascending", "descending"), strict=True):
            page.click(f".sortable button >> text='{column}'")
            assert names(page) == order, column
            expected = direction if column != "score" else {"ascending": "descending"}.get(direction, "ascending")
            assert page.get_attribute("th[aria-sort]", "aria-sort") == expected


def test_runs_that_can_be_compared_have_one_letter(open_page: OpenPage) -> None:
    page = open_page(render_runs(REPORT))
    assert page.locator("td[data-label=tiles]").all_inner_texts() == ["A: 4,000 in 5", "B: 4,000 in 5", "B: 4,000 in 5"]


def test_nothing_but_its_own_script_is_run(open_page: OpenPage) -> None:
    hostile = "<script>document.title = 'run'</script>"
    html = render_runs(RunsReport(store=hostile, finished=[replace(LINE, run=hostile, network=hostile)], others=[]))
    assert open_page(html).title() == "Runs \N{MIDDLE DOT} saltray"
    assert html.count("<script>") == 1


def test_no_run_at_all() -> None:
    html = render_runs(RunsReport(store="s", finished=[], others=[]))
    assert "0 finished, 0 not finished" in html
    assert "<table" not in html
