"""One held-out tile as pictures that lie over each other: the seismic image, and each mask as a layer of its own.

Blue is the label and orange the prediction, as in all pictures. Of the errors, blue is therefore salt that the
prediction misses, and orange salt that it finds where there is none. The layers are transparent PNG files of a few
hundred bytes, which a page shows in any theme and at any size.
"""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 512
"""Pixels of a picture's longer side; of a larger tile, every second pixel is shown, every third, and so on."""
LABEL, PREDICTION, _BOTH = (0, 114, 178), (230, 159, 0), (0, 158, 115)
"""Red, green and blue."""
_FILL, _SOLID, _FAINT = 90, 255, 60
"""Opacity, of 255, of a mask, of its edge or of an error, and of salt that is labelled and predicted."""
_ERROR = 190
_LEVELS = 32
"""Steps of the probability."""


@dataclass(frozen=True, kw_only=True)
class TileView:
    """A held-out tile, to be shown."""

    tile: str
    """Its id."""
    fold: int
    """The fold that held it out."""
    rank: str | None
    """What it is an example of: best, median or worst."""
    score: float
    """Competition score of the tile, with the masks of the ensemble's settings."""
    iou: float
    """Of the two masks; NaN where neither has salt."""
    labelled: float
    """Share of the pixels that is labelled as salt, 0..1; so are the next."""
    predicted: float
    missed: float
    """Labelled and not predicted."""
    extra: float
    """Predicted and not labelled."""
    image: str
    """The seismic image as a data URI."""
    layers: Mapping[str, str]
    """label, prediction, errors and probability, each as the data URI of a transparent picture."""


def view_tile(
    tile: str,
    fold: int,
    score: float,
    *,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    predicted: NDArray[np.bool_],
    rank: str | None = None,
) -> TileView:
    """The pictures of one tile, and its numbers.

    Args:
        tile: its id.
        fold: the fold that held it out.
        score: its competition score.
        image: [H, W], grey.
        mask: [H, W] of 0 and 1.
        probabilities: [H, W], 0..1, out of fold.
        predicted: [H, W], the mask that follows from them.
        rank: what it is an example of.
    """
    truth = mask > 0
    union = int((truth | predicted).sum())
    step = -(-max(image.shape) // MOST)
    shown = np.s_[::step, ::step]
    label, prediction = truth[shown], predicted[shown]
    edge = _edge(label)
    layers = {
        "label": _layer([(label, LABEL, _FILL), (edge, LABEL, _SOLID)]),
        "prediction": _layer(
            [(prediction, PREDICTION, _FILL), (_edge(prediction), PREDICTION, _SOLID), (edge, LABEL, _SOLID)]
        ),
        "errors": _layer(
            [
                (label & prediction, _BOTH, _FAINT),
                (prediction & ~label, PREDICTION, _ERROR),
                (label & ~prediction, LABEL, _ERROR),
            ]
        ),
        "probability": _probability(probabilities[shown]),
    }
    return TileView(
        tile=tile,
        fold=fold,
        rank=rank,
        score=score,
        iou=int((truth & predicted).sum()) / union if union else math.nan,
        labelled=float(truth.mean()),
        predicted=float(predicted.mean()),
        missed=float((truth & ~predicted).mean()),
        extra=float((predicted & ~truth).mean()),
        image=_data_uri(Image.fromarray(_stretched(image)[shown])),
        layers=layers,
    )


def shown_range(image: NDArray[np.uint8]) -> tuple[float, float]:
    """The values that are shown as black and as white: about the tile's mean, as in seismic displays.

    An all-black tile stays black.
    """
    centre, reach = float(image.mean()), max(32.0, 3 * float(image.std()))
    return max(0.0, centre - reach), centre + reach


def _stretched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, high = shown_range(image)
    stretched: NDArray[np.uint8] = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return stretched


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask beside one that is not of it."""
    around = np.pad(mask, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inside
    return edge


def _layer(parts: list[tuple[NDArray[np.bool_], tuple[int, int, int], int]]) -> str:
    """A transparent picture: each mask in its colour and opacity, later ones over earlier ones."""
    index = np.zeros(parts[0][0].shape, np.uint8)
    colours, opacities = [(0, 0, 0)], [0]
    for mask, colour, opacity in parts:
        index[mask] = len(colours)
        colours.append(colour)
        opacities.append(opacity)
    return _palette(index, colours, opacities)


def _probability(probabilities: NDArray[np.floating]) -> str:
    """The prediction's colour, the more of it the more probable salt is."""
    index = np.rint(probabilities.astype(np.float32) * (_LEVELS - 1)).astype(np.uint8)
    opacities = [round(235 * level / (_LEVELS - 1)) for level in range(_LEVELS)]
    return _palette(index, [PREDICTION] * _LEVELS, opacities)


def _palette(index: NDArray[np.uint8], colours: list[tuple[int, int, int]], opacities: list[int]) -> str:
    picture = Image.fromarray(index, mode="P")
    picture.putpalette([part for colour in colours for part in colour])
    return _data_uri(picture, transparency=bytes(opacities))


def _data_uri(picture: Image.Image, **settings: object) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True, **settings)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
