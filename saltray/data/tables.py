"""The tables of a raw data set: train.csv and sample_submission.csv (id,rle_mask), and depths.csv (id,z)."""

import io
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from saltray.data.png import Mask
from saltray.data.raw_layout import id_problem, printable
from saltray.data.rle import decode_rle
from saltray.errors import DataError


def check_masks_table(data: bytes, masks: Mapping[str, Mask | None], problems: list[str]) -> None:
    """Add to `problems` every row of train.csv that differs from the mask of its id, and every id without a row.

    Args:
        data: content of the file.
        masks: mask by id; None for one that could not be decoded.
        problems: receives one line per problem.
    """
    seen = set()
    for tile, text in _rows("train.csv", data, "rle_mask", problems):
        seen.add(tile)
        if tile not in masks:
            problems.append(f"train.csv: {printable(tile)} has no mask among the PNGs; add it, or remove the row")
            continue
        mask = masks[tile]
        if mask is None:
            continue
        try:
            same = np.array_equal(decode_rle(text, *mask.salt.shape), mask.salt)
        except DataError as error:
            problems.append(f"train.csv: {tile}: {error}")
            continue
        if not same:
            problems.append(f"train.csv: {tile} differs from its mask PNG; correct one of them")
    if seen:
        problems += [f"train.csv: no row for {tile}; add it" for tile in masks if tile not in seen]


def read_depths(data: bytes, problems: list[str]) -> dict[str, float]:
    """Depth z by tile id, from depths.csv; one line per problem is added to `problems`."""
    depths = {}
    for tile, text in _rows("depths.csv", data, "z", problems):
        try:
            depths[tile] = float(text)
        except ValueError:
            depths[tile] = math.nan
        if not math.isfinite(depths[tile]):
            problems.append(f"depths.csv: {printable(tile)}: depth {text[:20]!r} is not a finite number; correct it")
    return depths


def read_sample_ids(data: bytes, problems: list[str]) -> list[str]:
    """The ids of sample_submission.csv; one line per problem is added to `problems`."""
    return [tile for tile, _ in _rows("sample_submission.csv", data, "rle_mask", problems)]


def _rows(file: str, data: bytes, column: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Id and another column of each valid row; one line for each other row is added to `problems`."""

    def skip(row: pc.InvalidRow) -> str:
        problems.append(
            f"{file}: {row.actual_columns} columns in {row.text[:40]!r}, not {row.expected_columns}; correct the row"
        )
        return "skip"

    try:
        table = pc.read_csv(
            io.BytesIO(data),
            read_options=pc.ReadOptions(use_threads=False, block_size=len(data) + 1),  # a row must fit a block
            parse_options=pc.ParseOptions(invalid_row_handler=skip),
            convert_options=pc.ConvertOptions(column_types={"id": pa.string(), column: pa.string()}),
        )
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{file}: not a CSV table ({' '.join(str(error).split())}); save it as CSV in UTF-8")
        return
    if sorted(name for name in table.column_names if name in ("id", column)) != sorted(("id", column)):
        problems.append(f"{file}: its columns are {printable(','.join(table.column_names)[:80])}; expected id,{column}")
        return
    seen = set()
    for tile, value in zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True):
        if problem := id_problem(tile):
            problems.append(f"{file}: {tile[:110]!r}: {problem}")
        elif tile in seen:
            problems.append(f"{file}: {tile} has two rows; remove one")
        else:
            seen.add(tile)
            yield tile, value
