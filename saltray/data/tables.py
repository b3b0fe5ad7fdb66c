"""The tables of a raw data set: train.csv and sample_submission.csv (id,rle_mask), and depths.csv (id,z)."""

import codecs
import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from saltray.data.images import check_bytes
from saltray.data.names import id_problem, normal_id
from saltray.data.problems import Problem, and_more, quoted
from saltray.data.rle import decode_rle
from saltray.data.source import Source
from saltray.data.tiles import mask_digests, pack_masks
from saltray.errors import DataError, one_line
from saltray.storage.base import Entry

MAX_ROWS = 2_000_000
"""Most rows of a table; each takes about 300 bytes of memory."""
MAX_BYTES = 2**29
"""Largest file, in bytes: a mask takes about 200."""
MAX_COLUMNS = 100
"""Most columns of a table, of which two are read."""
MAX_BAD_ROWS = 1000
"""Most rows of another length before the file counts as no table."""
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"} | {
    codecs.BOM_UTF16_LE: "utf-16-le",  # after UTF-32's, of which it is the start
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_UNKNOWN = "\ufffd"  # stands for bytes that are not UTF-8
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_SPREADSHEET_NUMBER = re.compile(r"\d(\.\d+)?E\+\d+", re.IGNORECASE)


class _Row(NamedTuple):
    where: str
    """File and row, for messages."""
    tile: str
    value: str


class KnownMask(NamedTuple):
    """A mask whose pixels are no longer in memory."""

    height: int
    width: int
    digest: tuple[int, ...]
    """As `tiles.mask_digests` has it."""

    @classmethod
    def of(cls, mask: NDArray[np.uint8]) -> "KnownMask":
        """Of a mask [H, W] of 0 and 1."""
        height, width = mask.shape
        return cls(height, width, tuple(mask_digests(pack_masks(mask[None]))[0].tolist()))


def read_table(source: Source, entry: Entry) -> bytes:
    """The content of a table.

    Raises:
        DataError: it cannot be read, or is too large. The message does not name the file.
    """
    check_bytes(entry.size, MAX_BYTES)
    return source.read(entry.key)


def read_ids(source: Source, entry: Entry) -> Set[str]:
    """The ids of train.csv's valid rows; none if it cannot be read, which `check_masks_table` reports."""
    try:
        return {row.tile for row in _rows("train.csv", read_table(source, entry), "rle_mask", [])}
    except DataError:
        return set()


def check_masks_table(
    data: bytes, masks: Mapping[str, KnownMask | None], images: Set[str], problems: list[Problem], notes: list[str]
) -> None:
    """Add to `problems` every row of train.csv that differs from the mask of its id, and every mask without a row.

    Args:
        data: content of the file.
        masks: mask by id; None for one that could not be decoded.
        images: ids of the training images; a missing mask of one of them is not reported here.
        problems: receives one problem per row.
        notes: receives a line for all rows without a tile: the tiles may be only some of the table's.
    """
    before = len(problems)
    seen, others = set(), []
    for row in _rows("train.csv", data, "rle_mask", problems):
        seen.add(row.tile)
        if row.tile not in masks:
            if row.tile not in images:
                others.append(row)
            continue
        mask = masks[row.tile]
        if mask is None:
            continue
        try:
            told = decode_rle(row.value, mask.height, mask.width)
        except DataError as error:
            problems.append(Problem(row.where, str(error)))
            continue
        if KnownMask.of(told).digest != mask.digest:
            problems.append(Problem(row.where, "differs from its mask image; correct one of them"))
    if seen:
        problems += [
            Problem(f"train.csv: {tile}", "no row for this mask; add it") for tile in masks if tile not in seen
        ]
    elif len(problems) == before:
        problems.append(Problem("train.csv", "no rows; add one for each mask, or remove the file"))
    if mangled := [row.tile for row in others if _SPREADSHEET_NUMBER.fullmatch(row.tile)]:
        what = "an id that a spreadsheet has turned into a number; write the table again with ids as text"
        problems += [Problem(f"train.csv: {tile}", what) for tile in mangled]
    elif others:
        notes.append(
            f"train.csv: {len(others):,} rows without a tile, not used: {and_more([row.tile for row in others])}"
        )


def read_depths(data: bytes, problems: list[Problem]) -> dict[str, float]:
    """Depth z by tile id, from depths.csv; one problem per wrong row is added to `problems`."""
    depths = {}
    for row in _rows("depths.csv", data, "z", problems):
        try:
            depths[row.tile] = float(row.value)
        except ValueError:
            depths[row.tile] = math.nan
        if not math.isfinite(depths[row.tile]):
            problems.append(Problem(row.where, f"depth {quoted(row.value)} is not a finite number; correct it"))
    return depths


def read_sample_ids(data: bytes, problems: list[Problem]) -> list[str]:
    """The ids of sample_submission.csv; one problem per row that cannot be read is added to `problems`."""
    return [row.tile for row in _rows("sample_submission.csv", data, "rle_mask", problems)]


def _rows(file: str, data: bytes, column: str, problems: list[Problem]) -> Iterator[_Row]:
    """Each valid row's id and value in a column; a problem for each other row is added to `problems`."""
    try:
        ids, values = _parse(file, data, column, problems)
    except DataError as error:
        problems.append(Problem(file, str(error)))
        return
    seen = set()
    for number, (text, value) in enumerate(zip(ids, values, strict=True), start=2):
        tile = normal_id(text.strip())
        where = f"{file}: {tile}"
        if _UNKNOWN in tile or _UNKNOWN in value:
            what = "letters that are not UTF-8, and nothing tells which they are; save the table as CSV in UTF-8"
            problems.append(Problem(f"{file}: row {number}", what))
        elif problem := id_problem(tile):
            problems.append(Problem(f"{file}: {quoted(tile)}", problem))
        elif tile in seen:
            problems.append(Problem(where, "two rows; remove one"))
        else:
            seen.add(tile)
            yield _Row(where, tile, value.strip())


def _parse(file: str, data: bytes, column: str, problems: list[Problem]) -> tuple[list[str], list[str]]:
    """The ids and the values of a column; a problem for each row of another length is added to `problems`.

    Raises:
        DataError: it is no table.
    """
    text = _decoded(data)
    if not text.strip():
        raise DataError("an empty file; write the table again, or remove it")
    utf8 = text.encode()
    lines = (line[0] for line in _LINE.finditer(text) if line[0].strip("\r\n"))
    first = next(lines)
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    columns = [f"f{place}" for place in _places(itertools.chain([first], lines), delimiter, column)]

    bad = itertools.count(1)

    def skip(row: pc.InvalidRow) -> str:
        if next(bad) > MAX_BAD_ROWS:
            return "error"
        what = f"{row.actual_columns} columns in {quoted(row.text)}, not {row.expected_columns}; correct the row"
        problems.append(Problem(f"{file}: row {row.number}", what))
        return "skip"

    try:
        table = pc.read_csv(
            io.BytesIO(utf8),
            # A row must fit a block. The first row counts as data: names that are the same would be lost.
            read_options=pc.ReadOptions(use_threads=False, block_size=len(utf8) + 1, autogenerate_column_names=True),
            parse_options=pc.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), include_columns=columns
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a CSV table ({one_line(error, 200)}); save it as CSV in UTF-8") from error
    if table.num_rows > MAX_ROWS:
        raise DataError(f"{table.num_rows:,} rows; the limit is {MAX_ROWS:,}: keep those of the tiles")
    ids, values = ([str(cell) for cell in column.to_pylist()[1:]] for column in table.columns)
    return ids, values


def _places(lines: Iterator[str], delimiter: str, column: str) -> tuple[int, int]:
    """The positions of the ids and of another column, which the first row names."""
    try:
        header = next(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"not a CSV table ({one_line(error)}); save it as CSV in UTF-8") from error
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{len(header):,} columns; the limit is {MAX_COLUMNS}: keep id and {column}")
    names = [name.strip().lower() for name in header]
    if sorted(name for name in names if name in ("id", column)) != sorted(("id", column)):
        raise DataError(f"its columns are {quoted(','.join(header)[:80])}; expected id,{column} in the first row")
    return names.index("id"), names.index(column)


def _decoded(data: bytes) -> str:
    """The text of a table in UTF-8, or in what its byte-order mark says; `_UNKNOWN` for bytes that are not UTF-8.

    Raises:
        DataError: the mark is wrong, or there is none and it is not UTF-8.
    """
    for mark, encoding in _BOMS.items():
        if data.startswith(mark) and encoding != "utf-8":
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"not {encoding.upper()} at byte {len(mark) + error.start}, though its first bytes say so; "
                    "save it as CSV in UTF-8"
                ) from error
    if (at := data.find(0)) >= 0:
        row = data.count(b"\n", 0, at) + 1
        guess = "it looks like UTF-16 without a byte-order mark" if at < 4 else "the file is damaged"
        raise DataError(f"a NUL at byte {at} in row {row}, so {guess}; save it as CSV in UTF-8")
    return data.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
