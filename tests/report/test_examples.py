"""Pictures have the promised size and colours, and examples have the rank that they claim."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.tiles import LabelledTiles
from saltray.errors import ConfigError
from saltray.report.examples import (
    BOTTOM,
    CELL,
    GAP,
    LEFT,
    MIN_COLUMNS,
    RIGHT,
    TOP,
    draw_demo,
    pick_examples,
)

GREY, BLUE, ORANGE = (127.5, 127.5, 127.5), (0, 114, 178), (230, 159, 0)


def flat_tiles(count: int) -> LabelledTiles:
    """Uniform grey tiles, the left half salt."""
    masks = np.zeros((count, 40, 40), np.uint8)
    masks[:, :, :20] = 1
    ids = tuple(f"{index:04d}" for index in range(count))
    return LabelledTiles(ids, np.full((count, 40, 40), 100, np.uint8), masks)


def upper_half(count: int) -> np.ndarray:
    """Salt is predicted in the upper half."""
    predicted = np.zeros((count, 40, 40), bool)
    predicted[:, :20] = True
    return predicted


def read(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"), dtype=float)


def at(picture: np.ndarray, row: int, column: int, down: float, across: float) -> np.ndarray:
    """Colour at a place in a cell, given as shares of its side."""
    return picture[TOP + row * (CELL + GAP) + round(down * CELL), LEFT + column * (CELL + GAP) + round(across * CELL)]


def tinted(colour: tuple[int, int, int]) -> list[float]:
    return [0.65 * grey + 0.35 * tint for grey, tint in zip(GREY, colour, strict=True)]


def draw(path: Path, tiles: LabelledTiles, predicted: np.ndarray) -> np.ndarray:
    """Draw with captions that are left blank, and read the picture."""
    draw_demo(path, tiles, predicted, "Demo", captions=[""] * len(tiles), postprocess="threshold 0.5")
    return read(path)


@pytest.mark.parametrize("count", [1, 5, 6, 8])
def test_size(tmp_path: Path, count: int) -> None:
    picture = draw(tmp_path / "demo.png", flat_tiles(count), upper_half(count))
    width = LEFT + max(count, MIN_COLUMNS) * (CELL + GAP) - GAP + RIGHT
    assert picture.shape == (TOP + 3 * (CELL + GAP) - GAP + BOTTOM, width, 3)


def test_colours_show_label_and_prediction(tmp_path: Path) -> None:
    picture = draw(tmp_path / "demo.png", flat_tiles(2), upper_half(2))
    for column in (0, 1):
        expected = {
            (0, 0.25, 0.25): GREY,
            (0, 0.75, 0.75): GREY,
            (1, 0.25, 0.25): tinted(BLUE),
            (1, 0.75, 0.25): tinted(BLUE),
            (1, 0.25, 0.75): GREY,
            (2, 0.25, 0.25): tinted(ORANGE),
            (2, 0.25, 0.75): tinted(ORANGE),
            (2, 0.75, 0.25): GREY,
            (2, 0.5, 0.75): ORANGE,  # the edge of the prediction
            (2, 0.75, 0.5): BLUE,  # the edge of the label, over it
        }
        for (row, down, across), colour in expected.items():
            assert at(picture, row, column, down, across) == pytest.approx(colour, abs=3)


def test_black_stays_black(tmp_path: Path) -> None:
    black = LabelledTiles(("a",), np.zeros((1, 40, 40), np.uint8), np.zeros((1, 40, 40), np.uint8))
    picture = draw(tmp_path / "demo.png", black, np.zeros((1, 40, 40), bool))
    assert at(picture, 0, 0, 0.5, 0.5) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(("title", "caption"), [("", "fold 0\nIoU 0.50"), ("Demo", "")])
def test_title_and_captions_are_drawn_above_the_tiles(tmp_path: Path, title: str, caption: str) -> None:
    draw_demo(tmp_path / "demo.png", flat_tiles(1), upper_half(1), title, captions=[caption], postprocess="x")
    ink = read(tmp_path / "demo.png")[:TOP].min(axis=(1, 2)) < 128  # whether each line of pixels has any
    half = TOP // 2
    assert (ink[:half].any(), ink[half:].any()) == (bool(title), bool(caption))


def test_dollars_are_text(tmp_path: Path) -> None:
    draw_demo(
        tmp_path / "demo.png", flat_tiles(1), upper_half(1), r"$\nonsense{$", captions=[r"$\worse{$"], postprocess="x"
    )
    assert (tmp_path / "demo.png").stat().st_size > 0


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, flat_tiles(1), upper_half(1))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*missing.*demo\.png.*; name a file in a folder"):
        draw(tmp_path / "missing" / "demo.png", flat_tiles(1), upper_half(1))


def pick(truth: np.ndarray, predicted: np.ndarray, each: int) -> list[tuple[str, int]]:
    """Rank and index of each, in order."""
    axes = tuple(range(1, truth.ndim))
    found = pick_examples((truth & predicted).sum(axis=axes), (truth | predicted).sum(axis=axes), each=each)
    return [(rank, tile) for tile, rank in found.items()]


def masks_of(*pixels: int) -> np.ndarray:
    """A mask [1, 10] for each number, with that many pixels of salt at its start."""
    return np.array([[[n < count for n in range(10)]] for count in pixels])


def test_examples_by_rank() -> None:
    truth = masks_of(10, 10, 10, 10, 10, 0, 0)
    predicted = masks_of(3, 10, 7, 1, 5, 0, 2)  # IoU .3, 1, .7, .1, .5, none at all, 0
    assert pick(truth, predicted, each=1) == [("best", 1), ("median", 4), ("worst", 6)]
    assert pick(truth, predicted, each=2) == [
        ("best", 1), ("best", 2), ("median", 4), ("median", 0), ("worst", 3), ("worst", 6),
    ]  # fmt: skip


def test_a_tile_is_shown_once() -> None:
    assert pick(masks_of(10, 10), masks_of(4, 6), each=3) == [("best", 1), ("best", 0)]


def test_examples_where_there_is_no_salt() -> None:
    picked = pick(masks_of(0, 0, 0), masks_of(0, 0, 0), each=1)
    assert [tile for _, tile in picked] == [0, 1, 2]
