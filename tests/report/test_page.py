"""The page of a run is whole, says the figures that it was given, and reaches for nothing outside itself."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from saltray.report.page import render_run

VOID = {"meta", "link", "img", "col"}  # and in SVG, what ends in '/>'
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


def test_headline(page_input: dict[str, Any]) -> None:
    page = Page(render_run(**page_input))
    assert {"0.7346", "0.7012", "0.3905", "r1", "s3://bucket/ensembles/r1/1"} <= set(page.text)
    assert any("0.45, the chosen threshold" in text for text in page.text)


def test_tables(page_input: dict[str, Any]) -> None:
    rows = Page(render_run(**page_input)).rows
    first = rows.index(["0", "0.6500", "0.7000", "0.6000", "0.9000", "3", "8.4 s"])
    assert rows[first + 1 : first + 4] == [
        ["1", "0.7500", "0.7600", "0.7000", "0.8000", "3", "1 min 15 s"],
        ["mean", "0.7000", "0.7300", "0.6500", "0.8500", "", "41.7 s"],
        ["std", "0.0707", "0.0424", "0.0707", "0.0707", "", ""],  # of 0.65 and 0.75: 0.1 / sqrt(2)
    ]
    assert ["0", "31", "38.7 %", "23.4 %"] in rows
    assert ["1", "29", "41.4 %", "24.6 %"] in rows
    for pair in (["data", "tgs"], ["epochs", "3"], ["weights", "–"], ["torch", "2.15.0"], ["ray", "2.60.0"]):  # noqa: RUF001
        assert pair in rows
    assert ["train"] in rows


def test_one_line_a_fold(page_input: dict[str, Any]) -> None:
    html = render_run(**page_input)
    charts = re.findall(r'<svg.*?aria-label="([^"]*)".*?</svg>', html, re.DOTALL)
    assert charts == ["Score by epoch", "Loss by epoch", "Score by threshold"]
    lines = [len(re.findall("<path ", svg)) for svg in re.findall("<svg.*?</svg>", html, re.DOTALL)]
    assert lines == [2, 4, 1]  # the loss has a training and a validation line each
    assert "chosen: 0.45" in html


def test_picture_is_inside(page_input: dict[str, Any]) -> None:
    (source,) = [
        value for tag, name, value in Page(render_run(**page_input)).attributes if (tag, name) == ("img", "src")
    ]
    head, data = source.split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data, validate=True) == page_input["examples"]


def test_nothing_is_fetched(page_input: dict[str, Any]) -> None:
    html = render_run(**page_input)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "base", "a"} & set(page.tags)
    links = {
        value.split(",")[0] for _, name, value in page.attributes if name in ("src", "href", "srcset", "xlink:href")
    }
    assert links == {"data:image/png;base64", "data:"}
    assert not re.search(r"https?://|url\(|@import", html)
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any(value.startswith("default-src 'none'") for value in policy)


@pytest.mark.parametrize("where", ["run", "ensemble", "section", "field", "value", "library", "version"])
def test_hostile_text_is_only_text(page_input: dict[str, Any], where: str) -> None:
    harmless = Page(render_run(**page_input))
    page_input |= {
        "run": {"run": HOSTILE},
        "ensemble": {"ensemble": HOSTILE},
        "section": {"config": {**page_input["config"], "model": {}, HOSTILE: {"weights": None}}},
        "field": {"config": {**page_input["config"], "model": {HOSTILE: None}}},
        "value": {"config": {**page_input["config"], "model": {"weights": HOSTILE}}},
        "library": {"versions": {"torch": "2.15.0", HOSTILE: "1"}},
        "version": {"versions": {"torch": "2.15.0", "ray": HOSTILE}},
    }[where]
    page = Page(render_run(**page_input))
    assert any(HOSTILE in text for text in page.text)
    if where != "section":
        assert page.tags == harmless.tags
    assert "script" not in page.tags


def test_a_run_without_records(page_input: dict[str, Any]) -> None:
    page_input |= {"history": {}, "threshold_curve": ([], [])}
    html = render_run(**page_input)
    assert Page(html).text.count("Nothing was recorded.") == 3
    assert "<svg" not in html


def test_what_is_unknown_is_not_invented(page_input: dict[str, Any]) -> None:
    page_input["results"][0] |= {"iou": None, "dice": float("nan"), "seconds": 7265.0}
    page_input["versions"]["commit"] = None
    rows = Page(render_run(**page_input)).rows
    assert ["1", "0.7500", "0.7600", "–", "–", "3", "2 h 01 min"] in rows  # noqa: RUF001
    assert ["commit", "–"] in rows  # noqa: RUF001
    (mean,) = [row for row in rows if row[0] == "mean"]
    assert mean[3:5] == ["–", "–"]  # noqa: RUF001


def test_a_single_fold_has_no_spread(page_input: dict[str, Any]) -> None:
    page_input["results"] = page_input["results"][:1]
    assert not [row for row in Page(render_run(**page_input)).rows if row[0] == "std"]
