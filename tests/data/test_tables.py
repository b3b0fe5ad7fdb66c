"""Every problem that train.csv and depths.csv can have."""

import numpy as np
import pytest

from saltray.data.images import Mask
from saltray.data.rle import encode_rle
from saltray.data.tables import check_masks_table, read_depths

# Runs "1 2" and "6 1" of 2x3 pixels; the mask of c could not be decoded.
MASKS = {
    "a": Mask(np.array([[1, 0, 0], [1, 0, 0]], np.uint8), 8),
    "b": Mask(np.array([[0, 0, 0], [0, 0, 1]], np.uint8), 8),
    "c": None,
}


def check_masks(*rows: str, header: str = "id,rle_mask") -> list[str]:
    problems: list[str] = []
    check_masks_table("\n".join([header, *rows, ""]).encode(), MASKS, problems)
    return problems


def test_masks_in_any_order() -> None:
    assert check_masks("c,9 9", "b,6 1", "a,1 2") == []
    assert check_masks("0.5,b,6 1", "0.5,a,1 2", "0.5,c,", header="score,id,rle_mask") == []


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (("a,1 3", "b,6 1", "c,"), "train.csv: a differs from its mask PNG; correct one of them"),
        (("a,", "b,6 1", "c,"), "train.csv: a differs from its mask PNG"),
        (("a,1 2 7", "b,6 1", "c,"), "train.csv: a: run-length encoding has 3 numbers"),
        (("a,1 2", "b,6 1", "c,", "d,1 1"), "train.csv: d has no mask among the PNGs"),
        (("a,1 2", "b,6 1"), "train.csv: no row for c; add it"),
        (("a,1 2", "b,6 1", "c,", "b,6 1"), "train.csv: b has two rows; remove one"),
        (("a,1 2", "b,6 1", "c,", "a,,7"), "train.csv: 3 columns in 'a,,7', not 2; correct the row"),
        (("a,1 2", "b,6 1", "c,", "../x,1 1"), "train.csv: '../x': an id that is a path"),
        (("a,1 2", "b,6 1", "c,", ",1 1"), "train.csv: '': an empty id"),
    ],
)
def test_problem_of_a_row(rows: tuple[str, ...], problem: str) -> None:
    (found,) = check_masks(*rows)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a CSV table (Empty CSV file)"),
        (b"id,rle_mask\n\xff\xfe,\n", "UTF-8"),
        (b"id,mask\na,1 2\n", "its columns are id,mask; expected id,rle_mask"),
        (b"id,id,rle_mask\na,a,1 2\n", "its columns are id,id,rle_mask; expected id,rle_mask"),
        (b"\x07,rle_mask\na,1 2\n", r"its columns are '\x07,rle_mask'; expected id,rle_mask"),
    ],
)
def test_problem_of_the_whole_file(data: bytes, problem: str) -> None:
    problems: list[str] = []
    check_masks_table(data, MASKS, problems)
    assert len(problems) == 1, problems
    assert problem in problems[0]
    assert problems[0].startswith("train.csv: ")
    assert "\n" not in problems[0]


def test_depths() -> None:
    problems: list[str] = []
    assert read_depths(b"id,z\na,306\nb,1e2\n", problems) == {"a": 306, "b": 100}
    assert problems == []


@pytest.mark.parametrize("text", ["deep", "nan", "-inf", ""])
def test_depth_that_is_not_a_number(text: str) -> None:
    problems: list[str] = []
    read_depths(f"id,z\na,{text}\nb,7\n".encode(), problems)
    assert problems == [f"depths.csv: a: depth {text!r} is not a finite number; correct it"]


def test_a_row_may_be_longer_than_the_csv_readers_own_blocks() -> None:
    salt = np.zeros((1, 2_000_000), np.uint8)
    salt[:, ::4] = 1
    data = f"id,rle_mask\na,{encode_rle(salt)}\n".encode()
    problems: list[str] = []
    check_masks_table(data, {"a": Mask(salt, 8)}, problems)
    assert len(data) > 3 * 2**20
    assert problems == []
