"""The page of a served ensemble, in a browser: tiles dropped, masks seen."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page
from web_server import web_server

from saltray.data.rle import encode_rle
from saltray.distributed.served_masks import Masked, Refused, read_tile
from saltray.distributed.web import digest_of, make_web
from saltray.ensemble.load import Ensemble
from saltray.ensemble.postprocess import Postprocess

TOKEN = "a-token-of-some-length"
TILES = np.random.default_rng(0).integers(0, 256, (2, 101, 101), np.uint8)
DROP = """([drop, files]) => {
  const carried = new DataTransfer();
  for (const [name, text] of files)
    carried.items.add(new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], name));
  drop.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""
SALT = """canvas => Array.from(
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).filter((_, at) => at % 4 === 3)"""


class Here:
    """The models in this process; the first request is told to come again."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble, self.requests = ensemble, 0

    async def predict(self, data: bytes) -> Masked | Refused:
        self.requests += 1
        if self.requests == 1:
            return Refused(503, "too many requests wait")
        tile = read_tile(data, self.ensemble.manifest)
        if isinstance(tile, Refused):
            return tile
        salt = self.ensemble.predict_masks(tile[None].copy())[0]
        return Masked(ensemble="r1 v1", salt=salt, mean_probability=0.25)

    async def describe(self) -> dict[str, Any]:
        return {"ensemble": "r1 v1", "members": 2, "height": 101, "width": 101}


@pytest.fixture(scope="module")
def ensemble(untrained: str) -> Ensemble:
    """One that finds salt in about half of all pixels."""
    loaded = Ensemble.load(untrained, device="cpu")
    threshold = float(np.median(loaded.predict(TILES)))
    manifest = replace(loaded.manifest, postprocess=Postprocess(threshold=threshold))
    return Ensemble(manifest, loaded.models, loaded.device)


@pytest.fixture
def page(browser: Browser, ensemble: Ensemble) -> Iterator[Page]:
    """The page, of a service with a token; it fails the test if it asks for anything from elsewhere."""
    with web_server(make_web(Here(ensemble), digest_of(TOKEN))) as (host, port):
        page = browser.new_page(viewport={"width": 375, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
        page.goto(f"http://{host}:{port}/")
        yield page
        page.close()
        assert not [url for url in asked if not url.startswith((f"http://{host}:{port}/", "blob:", "data:"))]


def saved(tile: NDArray[np.uint8], kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format=kind)
    return file.getvalue()


def drop(page: Page, **files: bytes) -> None:
    carried = [(name.replace("_", "."), base64.b64encode(data).decode()) for name, data in files.items()]
    page.evaluate(DROP, [page.query_selector("#drop"), carried])


def test_dropped_tiles_get_the_masks_of_the_ensemble(page: Page, ensemble: Ensemble) -> None:
    page.fill("#token", TOKEN)
    drop(page, a_png=saved(TILES[0], "PNG"), b_tif=saved(TILES[1], "TIFF"))
    page.wait_for_selector("figure:nth-child(2)[data-state=done]")
    page.wait_for_selector("figure:nth-child(1)[data-state=done]")  # also the one that was told to come again
    for number, tile in enumerate(TILES, 1):
        (expected,) = ensemble.predict_masks(tile[None])
        assert 0.2 < expected.mean() < 0.8
        figure = page.query_selector(f"figure:nth-child({number})")
        assert figure is not None
        alpha = np.array(figure.eval_on_selector("canvas", SALT)).reshape(101, 101)
        np.testing.assert_array_equal(alpha > 0, expected)
        assert f"{100 * expected.mean():.1f} % salt" in figure.inner_text()
    assert page.inner_text("#count") == "2 done"
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.wait_for_selector("figure:nth-child(2) img.missing", state="attached")  # no browser shows a TIFF
    with page.expect_download() as download:
        page.click("#csv")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "id,rle_mask"
    assert [line.split(",") for line in lines[1:]] == [
        [name, encode_rle(ensemble.predict_masks(tile[None])[0])] for name, tile in zip("ab", TILES, strict=True)
    ]


def test_a_tile_that_is_refused_says_why(page: Page) -> None:
    page.wait_for_selector("text=r1 v1, 2 models")
    drop(page, c_png=saved(np.zeros((7, 9), np.uint8), "PNG"))
    page.wait_for_selector("text=send the header `Authorization: Bearer TOKEN`")
    page.fill("#token", TOKEN)
    page.click("#clear")
    drop(page, c_png=saved(np.zeros((7, 9), np.uint8), "PNG"))
    page.wait_for_selector("text=7x9 pixels, but the ensemble was trained on 101x101; crop or pad it")
    assert page.inner_text("#count") == "0 done, 1 failed"
