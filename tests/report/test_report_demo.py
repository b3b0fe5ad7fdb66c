"""Pictures have the size and the colours that they promise, and examples are the ones that they claim to be."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.tiles import Tiles
from saltray.errors import ConfigError
from saltray.report.demo import (
    BOTTOM,
    CAPTIONS,
    CELL,
    GAP,
    LEAST_COLUMNS,
    LEFT,
    RIGHT,
    TOP,
    draw_demo,
    draw_examples,
    pick_examples,
)

GREY, BLUE, ORANGE = (127.5, 127.5, 127.5), (0, 114, 178), (230, 159, 0)


def flat_tiles(count: int, *, labelled: bool = True) -> Tiles:
    """Even grey tiles, the left half salt."""
    masks = np.zeros((count, 40, 40), np.uint8)
    masks[:, :, :20] = 1
    ids = tuple(f"{index:04d}" for index in range(count))
    return Tiles(ids, np.full((count, 40, 40), 100, np.uint8), masks if labelled else None)


def upper_half(count: int) -> np.ndarray:
    """Probabilities that say 0.7 in the upper half, and nothing below."""
    probabilities = np.zeros((count, 40, 40), np.float32)
    probabilities[:, :20] = 0.7
    return probabilities


def read(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"), dtype=float)


def at(picture: np.ndarray, top: int, row: int, column: int, down: float, across: float) -> np.ndarray:
    """Colour at a place in a cell, given as shares of its side."""
    return picture[top + row * (CELL + GAP) + round(down * CELL), LEFT + column * (CELL + GAP) + round(across * CELL)]


def tinted(colour: tuple[int, int, int]) -> list[float]:
    return [0.65 * grey + 0.35 * tint for grey, tint in zip(GREY, colour, strict=True)]


@pytest.mark.parametrize(
    ("count", "labelled", "captioned"), [(1, True, True), (5, False, False), (6, False, True), (8, True, False)]
)
def test_size(tmp_path: Path, count: int, labelled: bool, captioned: bool) -> None:
    path = tmp_path / "demo.png"
    captions = [f"fold {n}\nIoU 0.50" for n in range(count)] if captioned else None
    draw_demo(path, flat_tiles(count, labelled=labelled), upper_half(count), 0.5, "Demo", captions=captions)
    width = LEFT + max(count, LEAST_COLUMNS) * (CELL + GAP) - GAP + RIGHT
    height = TOP + captioned * CAPTIONS + (3 if labelled else 2) * (CELL + GAP) - GAP + BOTTOM
    picture = read(path)
    assert picture.shape == (height, width, 3)
    assert picture.std() > 10


def test_colours_say_label_and_prediction(tmp_path: Path) -> None:
    draw_demo(tmp_path / "demo.png", flat_tiles(2), upper_half(2), 0.5, "Demo")
    picture = read(tmp_path / "demo.png")
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
            assert at(picture, TOP, row, column, down, across) == pytest.approx(colour, abs=3)


def test_salt_is_above_the_threshold(tmp_path: Path) -> None:
    draw_demo(tmp_path / "demo.png", flat_tiles(1, labelled=False), upper_half(1), 0.7001, "Demo")
    assert at(read(tmp_path / "demo.png"), TOP, 1, 0, 0.25, 0.5) == pytest.approx(GREY, abs=3)


def test_black_stays_black(tmp_path: Path) -> None:
    black = Tiles(("a",), np.zeros((1, 40, 40), np.uint8), None)
    draw_demo(tmp_path / "demo.png", black, np.zeros((1, 40, 40)), 0.5, "Demo")
    assert at(read(tmp_path / "demo.png"), TOP, 0, 0, 0.5, 0.5) == pytest.approx((0, 0, 0))


def test_dollars_are_no_formula(tmp_path: Path) -> None:
    draw_demo(tmp_path / "demo.png", flat_tiles(1), upper_half(1), 0.5, r"$\nonsense{$", captions=[r"$\worse{$"])
    assert (tmp_path / "demo.png").stat().st_size > 0


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_demo(tmp_path / name, flat_tiles(1), upper_half(1), 0.5, "Demo")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*missing.*demo\.png"):
        draw_demo(tmp_path / "missing" / "demo.png", flat_tiles(1), upper_half(1), 0.5, "Demo")


def masks_of(*pixels: int) -> np.ndarray:
    """One mask [1, 10] a number, whose first so many pixels are salt."""
    return np.array([[[n < count for n in range(10)]] for count in pixels])


def test_examples_by_rank() -> None:
    truth = masks_of(10, 10, 10, 10, 10, 0, 0)
    predicted = masks_of(3, 10, 7, 1, 5, 0, 2)  # IoU .3, 1, .7, .1, .5, none at all, 0
    assert pick_examples(truth, predicted, each=1) == [
        ("best", 1, pytest.approx(1.0)),
        ("median", 4, pytest.approx(0.5)),
        ("worst", 6, pytest.approx(0.0)),
    ]
    ranks = pick_examples(truth, predicted, each=2)
    assert [(rank, tile) for rank, tile, _ in ranks] == [
        ("best", 1), ("best", 2), ("median", 4), ("median", 0), ("worst", 3), ("worst", 6),
    ]  # fmt: skip


def test_a_tile_is_shown_once() -> None:
    picked = pick_examples(masks_of(10, 10), masks_of(4, 6), each=3)
    assert [(rank, tile) for rank, tile, _ in picked] == [("best", 1), ("best", 0)]


def test_examples_where_there_is_no_salt() -> None:
    picked = pick_examples(masks_of(0, 0, 0), masks_of(0, 0, 0), each=1)
    assert [tile for _, tile, _ in picked] == [0, 1, 2]


def test_examples_picture() -> None:
    picture = Image.open(io.BytesIO(draw_examples(flat_tiles(12), upper_half(12), 0.5, np.arange(12) % 5)))
    assert picture.format == "PNG"
    assert picture.size == (
        LEFT + 9 * (CELL + GAP) - GAP + RIGHT,
        TOP + CAPTIONS + 3 * (CELL + GAP) - GAP + BOTTOM,
    )


def test_the_room_is_lazy_and_leaves_pyplot_alone() -> None:
    code = (
        "import sys, saltray.report\n"
        "assert not {'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert all(callable(getattr(saltray.report, name)) for name in saltray.report.__all__)\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
