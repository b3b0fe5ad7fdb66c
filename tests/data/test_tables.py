"""Every problem that train.csv and depths.csv can have."""

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saltray.data.tables
from saltray.data.problems import Problem
from saltray.data.rle import encode_rle
from saltray.data.source import Source
from saltray.data.tables import MAX_BYTES, KnownMask, check_masks_table, read_depths, read_ids, read_table
from saltray.errors import DataError

from .mini import Mini

# Runs "1 2" and "6 1" of 2x3 pixels; the mask of c could not be decoded.
MASKS = {
    "a": KnownMask.of(np.array([[1, 0, 0], [1, 0, 0]], np.uint8)),
    "b": KnownMask.of(np.array([[0, 0, 0], [0, 0, 1]], np.uint8)),
    "c": None,
}


IMAGES = {"a", "b", "c", "unmasked"}


def check_table(data: bytes) -> tuple[list[str], list[str]]:
    """Problems and notes of a train.csv."""
    problems: list[Problem] = []
    notes: list[str] = []
    check_masks_table(data, MASKS, IMAGES, problems, notes)
    return [str(problem) for problem in problems], notes


def check_masks(*rows: str, header: str = "id,rle_mask") -> list[str]:
    problems, notes = check_table("\n".join([header, *rows, ""]).encode())
    assert notes == []
    return problems


def test_masks_in_any_order() -> None:
    assert check_masks("c,9 9", "b,6 1", "a,1 2") == []
    assert check_masks("0.5,b,6 1", "0.5,a,1 2", "0.5,c,", header="score,id,rle_mask") == []


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (("a,1 3", "b,6 1", "c,"), "train.csv: a: differs from its mask image; correct one of them"),
        (("a,", "b,6 1", "c,"), "train.csv: a: differs from its mask image"),
        (("a,1 2 7", "b,6 1", "c,"), "train.csv: a: run-length encoding has 3 numbers"),
        (("a,1 2", "b,6 1"), "train.csv: c: no row for this mask; add it"),
        (("a,1 2", "b,6 1", "c,", "b,6 1"), "train.csv: b: two rows; remove one"),
        (("a,1 2", "b,6 1", "c,", "a,,7"), "train.csv: row 5: 3 columns in 'a,,7', not 2; correct the row"),
        (("a,1 2", "b,6 1", "c,", "../x,1 1"), "train.csv: '../x': an id that is a path"),
        (("a,1 2", "b,6 1", "c,", ",1 1"), "train.csv: '': an empty id"),
        (("a,1 2", "b,6 1", "c,", "1.23E+10,1 1"), "train.csv: 1.23E+10: an id that a spreadsheet has turned into"),
    ],
)
def test_problem_of_a_row(rows: tuple[str, ...], problem: str) -> None:
    (found,) = check_masks(*rows)
    assert found.startswith(problem)


def test_rows_without_a_tile_are_a_note() -> None:
    rows = "".join(f"x{n:03},1 1\n" for n in range(200))
    problems, notes = check_table(f"id,rle_mask\na,1 2\nb,6 1\nc,\nunmasked,\n{rows}".encode())
    assert problems == []
    assert notes == ["train.csv: 200 rows without a tile, not used: x000, x001, x002 and 197 more"]


TEXT = "id,rle_mask\na,1 2\nb,6 1\nc,\n"
SAME = {
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, big-endian": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-8 with mark": TEXT.encode("utf-8-sig"),
    "Windows": TEXT.replace("\n", "\r\n").encode(),
    "blank in the header": TEXT.replace("id,rle_mask", "id, rle_mask ").encode(),
    "blanks in cells": TEXT.replace("a,1 2", " a , 1 2").encode(),
    "capitals": TEXT.replace("id,rle_mask", "ID,RLE_Mask").encode(),
    "semicolons": TEXT.replace(",", ";").encode(),
    "tabs": TEXT.replace(",", "\t").encode(),
    "quotes": TEXT.replace("a,1 2", '"a","1 2"').encode(),
    "empty lines": ("\n" + TEXT + "\n\n").encode(),
    "Latin-1 in another column": TEXT.replace("\n", ",gr\xf6\n").encode("latin-1"),
    "Latin-1 in another header": TEXT.replace("\n", ",1\n").replace("k,1", "k,Gr\xf6\xdfe").encode("latin-1"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_the_same_table(name: str) -> None:
    assert check_table(SAME[name]) == ([], [])


def test_ids_are_composed() -> None:
    problems: list[Problem] = []
    masks = {"F\xf6hr": MASKS["a"]}
    check_masks_table("id,rle_mask\nFo\u0308hr,1 2\n".encode(), masks, set(), problems, [])
    assert problems == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "an empty file"),
        (b" \r\n", "an empty file"),
        (codecs.BOM_UTF8, "an empty file"),
        (codecs.BOM_UTF16_LE, "an empty file"),
        (b"id,rle_mask\n", "no rows; add one for each mask"),
        (b"a,1 2\nb,6 1\nc,\n", "its columns are 'a,1 2'; expected id,rle_mask in the first row"),
        (b"id,mask\na,1 2\n", "its columns are 'id,mask'; expected id,rle_mask"),
        (b"id,id,rle_mask\na,a,1 2\n", "its columns are 'id,id,rle_mask'; expected id,rle_mask"),
        (b"\x07,rle_mask\na,1 2\n", r"its columns are '\x07,rle_mask'; expected id,rle_mask"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le")[:-1], "not UTF-16-LE at byte"),
        (TEXT.encode("utf-16-le"), "a NUL at byte 1 in row 1, so it looks like UTF-16 without a byte-order mark"),
        (bytes(1000), "a NUL at byte 0"),
        (TEXT.encode() + "gr\xf6\xdf,\n".encode("latin-1"), "row 5: letters that are not UTF-8"),
        (TEXT.encode() + b"a,b,gr\xf6\xdf\n", "row 5: 3 columns in "),
        (TEXT.encode() + bytes(3), "a NUL at byte 27 in row 5, so the file is damaged"),
    ],
)
def test_problem_of_the_whole_file(data: bytes, problem: str) -> None:
    problems, notes = check_table(data)
    assert len(problems) == 1, problems
    assert notes == []
    assert problem in problems[0]
    assert problems[0].startswith("train.csv: ")
    assert "\n" not in problems[0]


def test_rows_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.tables, "MAX_ROWS", 4)
    assert check_table(TEXT.encode()) == ([], [])  # the first row counts
    assert check_table(TEXT.encode() + b"x,1 1\n")[0] == ["train.csv: 5 rows; the limit is 4: keep those of the tiles"]


def test_rows_of_another_length_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.tables, "MAX_BAD_ROWS", 3)
    problems, _ = check_table(TEXT.encode() + b"a,b,c\n" * 1000)
    assert len(problems) == 4
    assert problems[-1].startswith("train.csv: not a CSV table (CSV parse error")


def test_depths() -> None:
    problems: list[Problem] = []
    assert read_depths(b"id,z\na,306\nb,1e2\n", problems) == {"a": 306, "b": 100}
    assert read_depths("id;z\na;306\n".encode("utf-16"), problems) == {"a": 306}
    assert problems == []


@pytest.mark.parametrize("text", ["deep", "nan", "-inf", "", "1\x07"])
def test_depth_that_is_not_a_number(text: str) -> None:
    problems: list[Problem] = []
    read_depths(f"id,z\na,{text}\nb,7\n".encode(), problems)
    assert list(map(str, problems)) == [f"depths.csv: a: depth {text!r} is not a finite number; correct it"]


def test_a_row_may_be_longer_than_the_csv_readers_own_blocks() -> None:
    salt = np.zeros((1, 2_000_000), np.uint8)
    salt[:, ::4] = 1
    data = f"id,rle_mask\na,{encode_rle(salt)}\n".encode()
    problems: list[Problem] = []
    check_masks_table(data, {"a": KnownMask.of(salt)}, set(), problems, [])
    assert len(data) > 3 * 2**20
    assert problems == []


def test_a_table_that_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "train.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    source = Source(str(folder))
    (entry,) = [entry for entry in source.list() if entry.key == "train.csv"]
    with pytest.raises(DataError, match="536,870,913 bytes; the limit is 536,870,912"):
        read_table(source, entry)
    assert read_ids(source, entry) == set()


def test_ids_of_a_table(folder: Path, mini: Mini) -> None:
    source = Source(str(folder))
    (entry,) = [entry for entry in source.list() if entry.key == "train.csv"]
    assert read_ids(source, entry) == set(mini.ids)


def test_columns_are_limited_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.tables.pc, "read_csv", None)  # reading would fail
    for wide in (b"id,rle_mask" + b"," * 10**6, b"id,rle_mask" + b",x" * 99 + b"\na,1 2\n"):
        (problem,), _ = check_table(wide)
        assert "columns; the limit is 100: keep id and rle_mask" in problem


def test_other_columns_are_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    read_csv = saltray.data.tables.pc.read_csv

    def recorded(*args: Any, **settings: Any) -> Any:
        tables.append(read_csv(*args, **settings))
        return tables[-1]

    monkeypatch.setattr(saltray.data.tables.pc, "read_csv", recorded)
    wide = TEXT.replace("\n", ",x" * 98 + "\n").encode()
    assert check_table(wide) == ([], [])
    assert tables[0].num_columns == 2


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_commas_of_later_rows_are_no_columns(end: str) -> None:
    rows = "".join(f'x{n},"1 1, 2"\n' for n in range(200))
    assert check_table((TEXT + rows).replace("\n", end).encode())[0] == []


def test_a_header_may_have_a_line_break_in_quotes() -> None:
    assert check_table(
        TEXT.replace("id,", '"not\ne",id,')
        .replace("\na", "\n,a")
        .replace("\nb", "\n,b")
        .replace("\nc", "\n,c")
        .encode()
    ) == ([], [])
