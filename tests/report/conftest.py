"""An invented run, small enough to check by hand; and the figures behind the pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import require
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, sync_playwright
from samples import EVALUATION

from saltray.config import Config, ModelConfig, TrainConfig
from saltray.data.folds import FoldBalance
from saltray.report.page import FoldRow, RunReport
from saltray.report.tile_pictures import TileView, view_tile
from saltray.training.epoch_metrics import EpochMetrics

CHROMIUM = Path("/usr/bin/chromium")
OpenPage = Callable[..., Page]


def view_of(tile: str, rank: str | None = None, *, size: int = 20) -> TileView:
    """A grey tile whose left half is labelled as salt, and whose upper half is predicted to be."""
    mask, predicted = np.zeros((size, size), np.uint8), np.zeros((size, size), bool)
    mask[:, : size // 2] = 1
    predicted[: size // 2] = True
    image = np.tile(np.arange(size, dtype=np.uint8) * 10, (size, 1))
    probabilities = np.where(predicted, 0.75, 0.25)
    return view_tile(tile, 1, 0.0, image=image, mask=mask, probabilities=probabilities, predicted=predicted, rank=rank)


def history_of(fold: int) -> list[EpochMetrics]:
    """Three epochs, the second of them without validation."""
    measured = [(1.2, 1.1, 0.4), (0.9, None, None), (0.7, 0.8, 0.65 + 0.1 * fold)]
    return [
        EpochMetrics(
            epoch=epoch, loss=loss, lr=1e-3, seconds=2.0, images_per_second=30.0, valid_loss=valid_loss, score=score
        )
        for epoch, (loss, valid_loss, score) in enumerate(measured, start=1)
    ]


@pytest.fixture
def report() -> RunReport:
    """Two folds of three epochs."""
    return RunReport(
        run="r1",
        folds=[
            FoldRow(
                fold=1,
                score=0.75,
                cross_fitted=0.76,
                iou=0.7,
                dice=0.8,
                epochs=3,
                seconds=75.0,
                started=1000.0,
                finished=1080.0,
            ),
            FoldRow(
                fold=0,
                score=0.65,
                cross_fitted=0.7,
                iou=0.6,
                dice=0.9,
                epochs=3,
                seconds=8.41,
                started=990.0,
                finished=1000.0,
            ),
        ],
        balance=[
            FoldBalance(fold=1, tiles=29, positives=17, empty_share=0.4138, coverage=0.2456),
            FoldBalance(fold=0, tiles=31, positives=19, empty_share=0.3871, coverage=0.2345),
        ],
        coverage={"none": [12, 12], "≤10": [19, 17]},
        history={fold: history_of(fold) for fold in (1, 0)},
        threshold_curve=[(0.4, 0.71), (0.45, 0.73), (0.5, 0.7)],
        threshold=0.45,
        postprocess="threshold 0.45, blank tiles emptied",
        baseline=0.3905,
        score=0.70123,
        score_at_threshold=0.73456,
        evaluation=EVALUATION,
        examples=[view_of("aa", "best"), view_of("bb", "worst")],
        search=None,
        ensemble="s3://bucket/ensembles/r1/v1",
        uri="s3://bucket/runs/r1",
        config=Config(data="tgs", model=ModelConfig(num_filters=7), train=TrainConfig(epochs=3)),
        versions={"torch": "2.15.0", "ray": "2.60.0"},
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that becomes a picture during the test."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def watched(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)
    return figures


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require(None if CHROMIUM.exists() else f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Opens HTML: `open_page(html, width=, scheme=)`; the test fails if it asks for anything more."""
    opened: list[Page] = []
    asked: list[str] = []
    faults: list[str] = []
    path = tmp_path / "page.html"

    def show(html: str, *, width: int = 1280, scheme: Any = "light") -> Page:
        path.write_text(html, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        opened.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))  # what the policy refuses is told here
        page.goto(path.as_uri())
        return page

    yield show
    for page in opened:
        page.close()
    assert faults == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {path.as_uri()}


WIDER = """() => Array.from(document.querySelectorAll(".card, main, html"))
  .filter(part => part.scrollWidth > part.clientWidth + 1).map(part => part.innerText.slice(0, 40))"""
"""The parts of a page that are wider than their place."""
UNREADABLE = """() => {
  const parts = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const luminance = colour => parts(colour)
    .map(value => value / 255).map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = luminance(getComputedStyle(document.querySelector(".card")).backgroundColor);
  return Array.from(document.querySelectorAll("h2, td, th, .note, svg text, .card span")).filter(part => {
    const style = getComputedStyle(part);
    const ink = luminance(part instanceof SVGElement ? style.fill : style.color);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05) < 4.5;
  }).map(part => part.textContent);
}"""
"""The texts whose contrast with the card below them is less than 4.5, as WCAG asks for."""


def check_layout(page: Page) -> None:
    """No part of a page is wider than its place, and all its text can be read."""
    assert page.evaluate(WIDER) == []
    assert page.evaluate(UNREADABLE) == []
