"""The tables beside the tiles: train.csv (id,rle_mask) and depths.csv (id,z)."""

import io
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from saltray.data.layout import name_fault, shown
from saltray.data.png import Mask
from saltray.data.rle import decode_rle
from saltray.errors import DataError


def check_masks_table(data: bytes, masks: Mapping[str, Mask | None], problems: list[str]) -> None:
    """Add to `problems` every row of train.csv that is not the mask of its id, and every id that it lacks.

    Args:
        data: the file.
        masks: by id, those that could be decoded; None for the others.
        problems: receives one line a fault.
    """
    seen = set()
    for tile, text in _rows("train.csv", data, "rle_mask", problems):
        seen.add(tile)
        if tile not in masks:
            problems.append(f"train.csv: {shown(tile)} has no mask among the PNGs; add it, or remove the row")
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
            problems.append(f"train.csv: {tile} differs from its mask PNG; keep the right one of the two")
    if seen:
        problems += [f"train.csv: no row for {tile}; add it" for tile in masks if tile not in seen]


def read_depths(data: bytes, problems: list[str]) -> dict[str, float]:
    """Depth z by tile id, from depths.csv; faults are added to `problems`."""
    depths = {}
    for tile, text in _rows("depths.csv", data, "z", problems):
        try:
            depths[tile] = float(text)
        except ValueError:
            depths[tile] = math.nan
        if not math.isfinite(depths[tile]):
            problems.append(f"depths.csv: {shown(tile)}: depth {text[:20]!r} is not a number")
    return depths


def _rows(file: str, data: bytes, column: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Id and another column of each sound row; faults of the table itself are added to `problems`."""

    def skip(row: pc.InvalidRow) -> str:
        problems.append(f"{file}: {row.actual_columns} columns in {row.text[:40]!r}, not {row.expected_columns}")
        return "skip"

    try:
        table = pc.read_csv(
            io.BytesIO(data),
            read_options=pc.ReadOptions(use_threads=False, block_size=len(data) + 1),  # a row is never cut in two
            parse_options=pc.ParseOptions(invalid_row_handler=skip),
            convert_options=pc.ConvertOptions(column_types={"id": pa.string(), column: pa.string()}),
        )
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{file}: not a table ({' '.join(str(error).split())}); write it as CSV in UTF-8")
        return
    if sorted(name for name in table.column_names if name in ("id", column)) != sorted(("id", column)):
        problems.append(f"{file}: its columns are {shown(','.join(table.column_names)[:80])}; expected id,{column}")
        return
    seen = set()
    for tile, value in zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True):
        if fault := name_fault(tile):
            problems.append(f"{file}: {tile[:110]!r}: {fault}")
        elif tile in seen:
            problems.append(f"{file}: {tile} stands there twice; remove one row")
        else:
            seen.add(tile)
            yield tile, value
