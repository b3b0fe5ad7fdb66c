"""The layers of a tile have the colour of what they show, pixel by pixel, and nothing elsewhere."""

import base64
import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saltray.report.tile_pictures import MOST, view_tile

from .conftest import view_of

BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)


def pixels(uri: str) -> NDArray[np.uint8]:
    """[H, W, 4] of a data URI."""
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGBA"))


def test_numbers_of_a_tile() -> None:
    view = view_of("t")
    assert (view.tile, view.fold, view.score) == ("t", 1, 0.0)
    assert (view.labelled, view.predicted, view.missed, view.extra) == (0.5, 0.5, 0.25, 0.25)
    assert view.iou == pytest.approx(1 / 3)


def test_errors_have_the_colour_of_the_mask_that_has_them() -> None:
    errors = pixels(view_of("t").layers["errors"])
    quarters = {"right": errors[5, 5], "missed": errors[15, 5], "extra": errors[5, 15], "nothing": errors[15, 15]}
    assert {name: tuple(pixel[:3]) for name, pixel in quarters.items() if name != "nothing"} == {
        "right": GREEN,
        "missed": BLUE,
        "extra": ORANGE,
    }
    opacity = {name: int(pixel[3]) for name, pixel in quarters.items()}
    assert opacity["nothing"] == 0
    assert 0 < opacity["right"] < opacity["missed"] == opacity["extra"] < 255


def test_label_and_prediction_have_edges_and_fills() -> None:
    layers = view_of("t").layers
    label, prediction = pixels(layers["label"]), pixels(layers["prediction"])
    assert (label[:, 10:, 3] == 0).all()
    assert (label[:, 9] == [*BLUE, 255]).all()  # the edge
    assert (label[:, :9, :3] == BLUE).all()
    assert (label[:, :9, 3] < 255).all()
    assert (prediction[9, 10:] == [*ORANGE, 255]).all()
    assert (prediction[:, 9] == [*BLUE, 255]).all()  # the label's edge lies over the prediction


def test_the_more_probable_the_more_is_seen() -> None:
    opacity = pixels(view_of("t").layers["probability"])[..., 3]
    assert (opacity[:10] > opacity[10:]).all()
    assert (opacity[10:] > 0).all()


def test_contrast_is_stretched_and_a_black_tile_stays_black() -> None:
    grey = pixels(view_of("t").image)[..., 0]
    assert (np.diff(grey.astype(int), axis=1) >= 0).all()
    empty = np.zeros((4, 4), np.uint8)
    view = view_tile("t", 0, 1.0, image=empty, mask=empty, probabilities=np.zeros((4, 4)), predicted=empty > 0)
    assert (pixels(view.image)[..., :3] == 0).all()
    assert math.isnan(view.iou)


def test_a_large_tile_is_shown_smaller() -> None:
    shape = (3 * MOST - 5, 7)
    image, mask = np.full(shape, 100, np.uint8), np.ones(shape, np.uint8)
    view = view_tile("t", 0, 1.0, image=image, mask=mask, probabilities=np.ones(shape), predicted=mask > 0)
    for uri in (view.image, *view.layers.values()):
        height, width, _ = pixels(uri).shape
        assert (height, width) == (MOST - 1, 3)
    assert view.labelled == 1.0
