"""Pictures of tiles, their labels and what the models made of them.

Blue is always the label and orange always the prediction (Okabe and Ito's colours, which colour-blind people can tell
apart). The outline of the label is drawn over the prediction too, so that an error shows as a gap between the two.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from saltray.data.tiles import LabelledTiles
from saltray.errors import ConfigError
from saltray.report.figures import DPI, INK, to_png
from saltray.report.tile_pictures import LABEL, PREDICTION, shown_range

LABEL_COLOUR, PREDICTION_COLOUR = (f"#{bytes(colour).hex()}" for colour in (LABEL, PREDICTION))
ROWS = ("seismic", "label", "prediction")
CELL, GAP = 202, 10
"""Pixels of a tile's side in the picture, and between two tiles."""
LEFT, RIGHT, TOP, BOTTOM = 84, 30, 134, 74
"""Margins in pixels; the title and the captions are in the top one, the legend in the bottom one."""
MIN_COLUMNS = 5
"""The picture is at least this many tiles wide, so that title and legend fit."""
_TINT = 0.35
"""Opacity of a mask over the image."""


def draw_demo(
    path: str | Path,
    tiles: LabelledTiles,
    predicted: NDArray[np.bool_],
    title: str,
    *,
    captions: Sequence[str],
    postprocess: str,
) -> None:
    """Write a PNG with a column for each tile: the seismic image, its label and the prediction.

    Args:
        path: the file to write.
        tiles: one or more; eight make a good width.
        predicted: [N, H, W], true where salt is predicted.
        title: the headline.
        captions: one per tile, of one or two lines.
        postprocess: how probabilities became masks, in words.

    Raises:
        ConfigError: the file cannot be written.
    """
    picture = _draw(tiles.images, tiles.masks, predicted, title=title, captions=captions, postprocess=postprocess)
    try:
        Path(path).write_bytes(picture)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that you may write"
        ) from error


def pick_examples(hits: NDArray[np.int64], union: NDArray[np.int64], *, each: int = 3) -> dict[int, str]:
    """The best, the median and the worst tiles by IoU, of those with salt in the label or the prediction.

    If no tile has any, all tiles count, with an IoU of 0.

    Returns:
        in this order, index of a tile -> what it is an example of: best, median or worst.

    Args:
        hits: [N], pixels of salt in both masks.
        union: [N], pixels of salt in either.
        each: tiles of each rank, at most.
    """
    iou = hits / np.maximum(union, 1)
    order = np.argsort(-iou, kind="stable")
    if union.any():
        order = order[union[order] > 0]
    middle = max(0, (len(order) - each) // 2)
    ranks = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    examples: dict[int, str] = {}
    for rank, chosen in ranks.items():
        for tile in chosen.tolist():
            examples.setdefault(tile, rank)
    return examples


def _draw(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    predicted: NDArray[np.bool_],
    *,
    title: str,
    captions: Sequence[str],
    postprocess: str,
) -> bytes:
    assert len(images) > 0, "there is nothing to draw"
    assert predicted.shape == images.shape
    assert len(captions) == len(images)
    width = LEFT + max(MIN_COLUMNS, len(images)) * (CELL + GAP) - GAP + RIGHT
    height = TOP + len(ROWS) * (CELL + GAP) - GAP + BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for column, image in enumerate(images):
        truth = masks[column] > 0
        for row, name in enumerate(ROWS):
            left, bottom = LEFT + column * (CELL + GAP), height - TOP - CELL - row * (CELL + GAP)
            axes = figure.add_axes((left / width, bottom / height, CELL / width, CELL / height))
            _show_image(axes, image)
            if name == "prediction":
                _show_mask(axes, predicted[column], PREDICTION_COLOUR)
            if name != "seismic":
                _show_mask(axes, truth, LABEL_COLOUR, filled=name == "label")
            if row == 0:
                axes.set_title(captions[column], fontsize=8, color=INK, pad=5, parse_math=False)
            if column == 0:
                axes.set_ylabel(name, fontsize=9, color=INK, labelpad=7)
    _annotate(figure, title, postprocess)
    return to_png(figure)


def _annotate(figure: Figure, title: str, postprocess: str) -> None:
    """Add the title, and the legend that says what the colours mean."""
    width, height = figure.get_size_inches() * DPI
    place = {"x": LEFT / width, "y": 1 - 28 / height}
    figure.text(**place, s=title, fontsize=12, fontweight="bold", color=INK, va="top", parse_math=False)
    legend: list[Patch | Line2D] = [
        Patch(facecolor=to_rgba(LABEL_COLOUR, _TINT), edgecolor=LABEL_COLOUR, label="labelled salt"),
        Patch(
            facecolor=to_rgba(PREDICTION_COLOUR, _TINT),
            edgecolor=PREDICTION_COLOUR,
            label=f"predicted salt ({postprocess})",
        ),
        Line2D([], [], color=LABEL_COLOUR, linewidth=1.4, label="edge of the label, over the prediction"),
    ]
    figure.legend(
        handles=legend,
        loc="lower left",
        bbox_to_anchor=(LEFT / width, 22 / height),
        ncols=len(legend),
        fontsize=8.5,
        frameon=False,
        labelcolor=INK,
        borderpad=0,
        borderaxespad=0,
    )


def _show_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    low, high = shown_range(image)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _show_mask(axes: Axes, mask: NDArray[np.bool_], colour: str, *, filled: bool = True) -> None:
    if filled:
        tint = np.zeros((*mask.shape, 4))
        tint[mask] = to_rgba(colour, _TINT)
        axes.imshow(tint, interpolation="nearest")
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.4)
