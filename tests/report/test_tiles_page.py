"""The page of some tiles, as text and in a browser."""

import pytest

from saltray.report.tiles_page import TilesReport, render_tiles

from .conftest import OpenPage, check_layout, view_of

HOSTILE = "<script>alert(1)</script>"


def report_of(*tiles: str, run: str = "r1") -> TilesReport:
    views = [view_of(tile) for tile in tiles]
    return TilesReport(run=run, ensemble="s3://b/ensembles/r1/v1", postprocess="threshold 0.45", tiles=views)


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_tile_of_any_name(open_page: OpenPage, width: int, scheme: str) -> None:
    page = open_page(render_tiles(report_of("t" * 60, HOSTILE)), width=width, scheme=scheme)
    check_layout(page)
    assert page.inner_text("#tile-2 b") == HOSTILE
    assert page.is_visible("text=fold 1 >> nth=0")
    box = page.locator("#tile-1 .stack").bounding_box()
    assert box is not None
    assert box["width"] > 250
    assert page.evaluate("document.querySelector('#tile-1 .seismic').naturalWidth") == 20


def test_each_layer_is_shown_alone(open_page: OpenPage) -> None:
    page = open_page(render_tiles(report_of("a")))
    layers = ["label", "prediction", "errors", "probability"]
    for name, shown in (("seismic", []), *((layer, [layer]) for layer in layers)):
        page.click(f".tiles > .layers >> text={name}")
        assert [layer for layer in layers if page.is_visible(f"#tile-1 .layer.{layer}")] == shown
    page.keyboard.press("ArrowLeft")  # the buttons are reached by keys, too
    assert page.is_visible("#tile-1 .layer.errors")
