"""The page of a run is well-formed, shows the figures that it was given, and loads nothing from outside."""

import base64
import hashlib
import math
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from samples import EVALUATION, metrics

from saltray.config import ClusterConfig, choice, loguniform
from saltray.report.page import RunReport, SearchReport, render_run
from saltray.report.search_charts import MOST_CURVES, RangeTestCurve, SearchedTrial

from .conftest import OpenPage, check_layout

VOID = {"meta", "link", "img", "col", "input"}  # and in SVG, what ends in '/>'
HOSTILE = "<script>alert(1)</script>\"'&amp;{{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on a tag that is closed wrongly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_headline(report: RunReport) -> None:
    page = Page(render_run(report))
    figures = [text for text in page.text if re.fullmatch(r"0\.\d{4}", text)]
    assert figures[:4] == ["0.7211", "0.7346", "0.7012", "0.3905"]
    assert {"r1", "s3://bucket/ensembles/r1/v1", "Baseline: no salt anywhere"} <= set(page.text)
    assert "95 % interval 0.7012 to 0.7398 over tiles; standard deviation over folds 0.0124" in page.text
    assert "optimistic by 0.0135, as the best of many settings" in page.text
    assert ["scored weights", "weights after the last epoch, 3"] in page.rows
    assert ["masks", "threshold 0.45, blank tiles emptied"] in page.rows


def test_tables_are_in_order_of_the_folds(report: RunReport) -> None:
    rows = Page(render_run(report)).rows
    first = rows.index(["0", "0.7000", "0.6500", "0.6000", "0.9000"])
    assert rows[first + 1 : first + 4] == [
        ["1", "0.7600", "0.7500", "0.7000", "0.8000"],
        ["mean", "0.7300", "0.7000", "0.6500", "0.8500"],
        ["std", "0.0424", "0.0707", "0.0707", "0.0707"],  # of 0.65 and 0.75: 0.1 / sqrt(2)
    ]
    first = rows.index(["0", "3", "2", "30", "8.4 s"])
    assert rows[first + 1 : first + 3] == [["1", "3", "2", "30", "1 min 15 s"], ["all folds", "1 min 23 s"]]
    first = rows.index(["0", "31", "38.7 %", "23.4 %"])
    assert rows[first + 1] == ["1", "29", "41.4 %", "24.6 %"]
    assert [row for row in rows if row[0] in ("ray", "torch")] == [["ray", "2.60.0"], ["torch", "2.15.0"]]


def test_every_setting_is_shown_below_its_section(report: RunReport) -> None:
    rows = Page(render_run(report)).rows
    data, model, train, cluster = (rows.index(row) for row in (["data", "tgs"], ["model"], ["train"], ["cluster"]))
    assert data < model < train < cluster
    assert ["num_filters", "7"] in rows[model:train]
    assert ["weights", "–"] in rows[model:train]  # noqa: RUF001
    assert ["epochs", "3"] in rows[train:cluster]


def test_one_line_per_fold(report: RunReport) -> None:
    html = render_run(report)
    charts = re.findall(r'<svg.*?aria-label="([^"]*)".*?</svg>', html, re.DOTALL)
    assert charts == [
        "Coverage of the labels",
        "Reliability",
        "Score by epoch",
        "Loss by epoch",
        "Score by threshold",
    ]
    _, reliability, score, loss, threshold = re.findall("<svg.*?</svg>", html, re.DOTALL)
    assert re.findall('class="line ([^"]*)"><title>([^<]*)', score) == [("c0", "fold 0"), ("c1", "fold 1")]
    assert re.findall('class="line ([^"]*)"><title>([^<]*)', loss) == [
        ("c0", "fold 0"),
        ("c1", "fold 1"),
        ("c0 dashed", "fold 0"),
        ("c1 dashed", "fold 1"),
    ]
    assert [len(re.findall("[ML]", d)) for d in re.findall('<path d="([^"]*)"', score)] == [2, 2]  # epochs 1 and 3
    assert [len(re.findall("[ML]", d)) for d in re.findall('<path d="([^"]*)"', loss)] == [3, 3, 2, 2]
    assert [len(re.findall("[ML]", d)) for d in re.findall('<path d="([^"]*)"', threshold)] == [3]
    assert "chosen: 0.45" in threshold
    assert [len(re.findall("[ML]", d)) for d in re.findall('<path d="([^"]*)"', reliability)] == [2, 2]
    assert "largest: 0.59" in reliability


def test_strata_and_prices(report: RunReport) -> None:
    html = render_run(report)
    rows = Page(html).rows
    first = rows.index(["no salt", "23", "0.9000", "0.85 to 0.95", ""])
    assert rows[first + 1] == ["0.1 to 9.7 % salt", "37", "0.3000", "0.20 to 0.41", ""]
    assert re.findall(r'<i style="width: ([\d.]+)%"></i><b style="left: ([\d.]+)%; width: ([\d.]+)%">', html) == [
        ("72.1", "70.1", "3.9"),  # the headline
        ("90.0", "85.0", "10.0"),
        ("30.0", "20.0", "21.0"),
    ]
    first = rows.index(["1", "no", "0.6912", "–", "11.5"])  # noqa: RUF001
    assert rows[first + 1 : first + 4] == [
        ["1", "yes", "0.7012", "+0.0061 to +0.0139", "23"],
        ["2", "no", "–", "–", "23"],  # noqa: RUF001
        ["2", "yes", "–", "–", "46"],  # noqa: RUF001
    ]
    unmeasured = tuple(replace(price, score=None, seconds=None) for price in EVALUATION.prices)
    html = render_run(replace(report, evaluation=replace(EVALUATION, prices=unmeasured, device=None)))
    assert ["1", "no", "–", "–", "–"] in Page(html).rows  # noqa: RUF001
    assert "Time of one" not in html


def test_the_tiles_are_inside(report: RunReport) -> None:
    page = Page(render_run(report))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert sources == [source for view in report.examples for source in (view.image, *view.layers.values())]
    text = "".join(page.text)
    assert "best, fold 1" in text
    assert "score 0.0, IoU 0.3333" in text
    assert "missed 25.0 %, not in the label 25.0 %" in text
    assert "saltray report s3://bucket/runs/r1 --tile ID" in text


@pytest.mark.parametrize(
    ("cluster", "device", "told"),
    [
        (ClusterConfig(), "NVIDIA H100", "0.0232 GPU hours on NVIDIA H100"),
        (ClusterConfig(gpus_per_worker=0.2), None, "0.00463 GPU hours in"),
        (
            ClusterConfig(workers_per_fold=2),
            "CPU",
            "0.0463 hours of ranks on CPU in the training loops, 2 ranks a fold",
        ),
        (ClusterConfig(gpus_per_worker=0, cpus_per_worker=4), "CPU", "0.0927 CPU hours on CPU"),
    ],
)
def test_cost(report: RunReport, cluster: ClusterConfig, device: str | None, told: str) -> None:
    config = replace(report.config, cluster=cluster)
    html = render_run(replace(report, config=config, evaluation=replace(EVALUATION, device=device)))
    assert told in html
    assert "1 min 30 s from the first step to the last result" in html  # from 990 to 1080


SEARCH = SearchReport(
    uri="s3://bucket/searches/s1",
    trial="trial-001",
    values={"optim.lr": 0.001, "train.batch_size": 8},
    score=0.61,
    count=2,
    trials=[
        SearchedTrial(
            name="trial-000",
            status="stopped",
            values={"optim.lr": 0.01, "train.batch_size": 16},
            score=0.4,
            epochs=[metrics(1, 0.4), metrics(2, 0.2)],
        ),
        SearchedTrial(
            name="trial-001",
            status="finished",
            values={"optim.lr": 0.001, "train.batch_size": 8},
            score=0.61,
            epochs=[metrics(1, 0.3), metrics(2, 0.5), metrics(3, 0.61)],
        ),
    ],
    space={"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([8, 16])},
    range_test=RangeTestCurve((1e-4, 1e-3, 1e-2), (1.1, 0.8, 0.9), (1.0, 0.9, 0.95), 1e-3),
)


def chart_of(html: str, name: str) -> str:
    return str(re.findall(f'<svg[^>]*aria-label="{name}".*?</svg>', html, re.DOTALL)[0])


def test_the_search_that_the_values_come_from(report: RunReport) -> None:
    html = render_run(replace(report, search=SEARCH))
    page = Page(html)
    assert ["optim.lr", "0.001"] in page.rows
    assert ["best trial", "trial-001, with a validation score of 0.6100, of 2 trials"] in page.rows
    rate, batch = (chart_of(html, f"Score by {field}") for field in ("optim.lr", "train.batch_size"))
    for chart, value in ((rate, "0.01"), (batch, "16")):
        assert f"<title>trial-000, stopped: {value}, score 0.4000</title>" in chart
    curves = chart_of(html, "Score of each trial by epoch")
    assert re.findall('<g class="line ([^"]*)"><title>(trial-...)', curves) == [
        ("c3 dashed", "trial-000"),
        ("c1 strong", "trial-001"),
    ]
    assert "suggested: 0.001" in chart_of(html, "Loss by learning rate")
    html = render_run(replace(report, search=replace(SEARCH, range_test=None)))
    assert "range test" not in html
    gone = replace(SEARCH, trials=[], space={}, range_test=None, faults=["it is gone <b>"])
    html = render_run(replace(report, search=gone))
    assert "it is gone &lt;b&gt;" in html
    assert 'aria-label="Score ' not in html.replace("Score by epoch", "").replace("Score by threshold", "")
    assert {"<script", "script-src"} & set(re.findall("<script|script-src", html)) == set()


def test_a_search_of_many_trials_is_a_small_page(report: RunReport) -> None:
    epochs = [metrics(number, 0.5) for number in range(1, 61)]
    values = {"optim.lr": 0.001, "train.batch_size": 8}
    trials = [
        SearchedTrial(name=f"trial-{number:03d}", status="finished", values=values, score=0.5, epochs=epochs)
        for number in range(1000)
    ]
    html = render_run(replace(report, search=replace(SEARCH, trials=trials, count=1000)))
    for name in ("Score", "Loss"):
        assert chart_of(html, f"{name} of each trial by epoch").count('class="line') == MOST_CURVES
    assert html.count(f"The best {MOST_CURVES} of 1,000 trials.") == 2
    assert len(html) < 500_000
    few = render_run(replace(report, search=SEARCH))
    assert "The best " not in few.replace("The best, median", "")


def test_only_the_pages_own_script_may_run(report: RunReport) -> None:
    trials = [replace(SEARCH.trials[0], name=HOSTILE), SEARCH.trials[1]]
    html = render_run(replace(report, search=replace(SEARCH, trials=trials)))
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert Page(html).tags.count("script") == 1
    assert f"script-src 'sha256-{digest}'\">" in unescape(html)


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_search_fits_and_its_curves_tell_what_they_are(
    report: RunReport, open_page: OpenPage, width: int, scheme: str
) -> None:
    page = open_page(render_run(replace(report, search=SEARCH)), width=width, scheme=scheme)
    check_layout(page)
    chart = page.locator('.near:has([aria-label="Score of each trial by epoch"])')
    told = chart.locator(".told")
    assert told.inner_text() == "Point at one, or tap it, to see what it is."
    for name, text in (
        ("c3", "trial-000, stopped after epoch 2: optim.lr 0.01, train.batch_size 16; best score 0.4000"),
        ("c1", "trial-001, finished after epoch 3: optim.lr 0.001, train.batch_size 8; best score 0.6100"),
    ):
        chart.locator("svg").scroll_into_view_if_needed()
        end = chart.locator(f".{name} .end, .{name} circle").bounding_box()
        assert end is not None
        page.mouse.move(end["x"] + 4, end["y"] + 8)  # beside it
        assert told.inner_text() == text
        assert chart.locator(".chosen").count() == 1
    check_layout(page)
    page.mouse.move(1, 1)
    assert chart.locator(".chosen").count() == 0
    chart.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    assert told.inner_text().startswith("trial-000")
    page.keyboard.press("ArrowLeft")
    assert told.inner_text().startswith("trial-001")


def test_what_lies_over_each_other_is_told_one_by_one(report: RunReport, open_page: OpenPage) -> None:
    trials = [replace(SEARCH.trials[0], name=f"trial-00{number}", score=0.4) for number in (0, 2, 3)]
    page = open_page(render_run(replace(report, search=replace(SEARCH, trials=[*trials, SEARCH.trials[1]]))))
    chart = page.locator('.near:has([aria-label="Score by optim.lr"])')
    chart.locator("svg").scroll_into_view_if_needed()
    box = chart.locator(".c3").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    told = [chart.locator(".told").inner_text()]
    for _ in range(3):
        page.mouse.click(box["x"] + 2, box["y"] + 2)
        told.append(chart.locator(".told").inner_text())
    assert [text[:9] for text in told] == ["trial-003", "trial-002", "trial-000", "trial-003"]
    assert told[0].endswith("(2 more here: click or tap again)")


def test_a_tap_tells_what_is_nearest(report: RunReport, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render_run(replace(report, search=SEARCH)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 375, "height": 800}, has_touch=True)
    page.goto((tmp_path / "page.html").as_uri())
    chart = page.locator('.near:has([aria-label="Score by optim.lr"])')
    chart.locator("svg").scroll_into_view_if_needed()
    dot = chart.locator(".dot.strong circle").bounding_box()
    assert dot is not None
    page.touchscreen.tap(dot["x"] + 10, dot["y"] - 6)
    assert chart.locator(".told").inner_text() == "trial-001, finished: 0.001, score 0.6100"
    page.close()


def test_nothing_is_fetched_and_nothing_is_run(report: RunReport) -> None:
    html = render_run(report)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    links = {
        value.split(",")[0] for _, name, value in page.attributes if name in ("src", "href", "srcset", "xlink:href")
    }
    assert links == {"data:image/png;base64", "data:", "#tiles", "#tile-1", "#tile-2"}
    assert not re.search(r"https?://|url\(|@import", html)
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any(value == "default-src 'none'; style-src 'unsafe-inline'; img-src data:" for value in policy)


@pytest.mark.parametrize("where", ["run", "ensemble", "uri", "setting", "library", "version", "tile"])
def test_markup_in_text_is_escaped(report: RunReport, where: str) -> None:
    hostile = {
        "run": replace(report, run=HOSTILE),
        "ensemble": replace(report, ensemble=HOSTILE),
        "uri": replace(report, uri=HOSTILE),
        "tile": replace(report, examples=[replace(view, tile=HOSTILE) for view in report.examples]),
        "setting": replace(report, config=replace(report.config, data=HOSTILE)),
        "library": replace(report, versions={"torch": "2.15.0", HOSTILE: "1"}),
        "version": replace(report, versions={"torch": "2.15.0", "ray": HOSTILE}),
    }[where]
    page = Page(render_run(hostile))
    assert any("<script>alert(1)</script>" in text for text in page.text)
    assert page.tags == Page(render_run(report)).tags


def test_a_run_without_history(report: RunReport) -> None:
    html = render_run(replace(report, history={}, threshold_curve=[]))
    assert Page(html).text.count("Nothing was recorded.") == 3
    assert html.count("<svg") == 2  # coverage and reliability


def test_unknown_values_are_dashes(report: RunReport) -> None:
    fold = replace(report.folds[0], iou=math.nan, dice=math.inf, seconds=7265.0)
    changed = replace(report, folds=[fold, *report.folds[1:]], versions={"commit": None})
    rows = Page(render_run(changed)).rows
    assert ["1", "0.7600", "0.7500", "–", "–"] in rows  # noqa: RUF001
    assert ["1", "3", "2", "30", "2 h 01 min"] in rows
    assert ["commit", "–"] in rows  # noqa: RUF001
    mean, std = (row for row in rows if row[0] in ("mean", "std"))
    assert mean[1:5] == ["0.7300", "0.7000", "–", "–"]  # noqa: RUF001
    assert std[3:5] == ["–", "–"]  # noqa: RUF001


def test_a_single_fold_has_no_standard_deviation(report: RunReport) -> None:
    rows = Page(render_run(replace(report, folds=report.folds[:1]))).rows
    assert [row[0] for row in rows if row[0] in ("mean", "std")] == ["mean"]


def test_a_page_needs_no_torch() -> None:
    code = "import sys, saltray.report.page\nassert not {'torch', 'matplotlib', 'ray'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(report: RunReport, open_page: OpenPage, width: int, scheme: str) -> None:
    page = open_page(render_run(replace(report, run="r" * 80)), width=width, scheme=scheme)
    check_layout(page)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgba(0, 0, 0, 0)",
        "rgb(255, 255, 255)",
    )
    assert not page.is_visible(".layers")


def test_a_tile_is_enlarged_and_its_layers_are_chosen(report: RunReport, open_page: OpenPage) -> None:
    page = open_page(render_run(report), width=375)
    small = page.locator("#tile-1 .stack").bounding_box()
    assert page.is_visible("#tile-1 .layer.errors")
    page.click("#tile-1 .open")
    large = page.locator("#tile-1 .stack").bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] > 1.8 * small["width"]
    assert large["x"] + large["width"] <= 375
    page.click("#tile-1 nav >> text=label")
    assert page.is_visible("#tile-1 .layer.label")
    assert not page.is_visible("#tile-1 .layer.errors")
    page.click("#tile-1 nav >> text=next")
    assert page.is_visible("#tile-2 nav")
    assert not page.is_visible("#tile-1 nav")
    page.click("#tile-2 nav >> text=close")
    assert not page.is_visible("#tile-2 nav")
