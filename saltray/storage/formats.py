"""The formats of objects: canonical JSON, records and Parquet tables, to bytes and back."""

import json
from typing import TYPE_CHECKING, Any, TypeVar

from saltray.errors import ConfigError, one_line
from saltray.records import RecordError, parse_json, parse_record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

T = TypeVar("T")
COMPRESSION = "zstd"
"""Of the columns of Parquet files."""


class FormatError(ValueError):
    """The bytes are not in the expected format. `str(error)` is one line that names the fault."""


def encode_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, indented by 2, no NaN. Equal values give equal bytes.

    Raises:
        ConfigError: a path has bytes that are no letters in the locale's encoding, as all beyond ASCII in some.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = ascii(text[: error.start].rpartition("\n")[2] + text[error.start :].partition("\n")[0])
        raise ConfigError(f"{line} is not text in this locale; set LC_ALL=C.UTF-8, or rename the file") from error


def decode_json(data: bytes) -> Any:
    """Plain JSON values.

    Raises:
        FormatError: not JSON, too large, or nested too deeply.
    """
    try:
        return parse_json(data)
    except RecordError as error:
        raise FormatError(str(error)) from error


def decode_record(data: bytes, kind: type[T]) -> T:
    """A dataclass of type `kind` from JSON, parsed strictly.

    Raises:
        FormatError: not JSON, too large, or not a record of `kind`.
        SaltrayError: whatever `kind` raises for impossible values.
    """
    try:
        return parse_record(kind, data)
    except RecordError as error:
        raise FormatError(str(error)) from error


def encode_table(table: "pa.Table") -> bytes:
    """Parquet with zstd."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=COMPRESSION)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_table(data: bytes, schema: "pa.Schema | None" = None, rows: int | None = None) -> "pa.Table":
    """A table from Parquet.

    Args:
        data: the file.
        schema: columns that it must have, of these types and without nulls.
        rows: number of rows that it must have.

    Raises:
        FormatError: not Parquet, or without such columns and rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            check_table(file, schema, rows)  # first, as little of a file can decode to more than the memory
            table = file.read()
        table.validate(full=True)  # else text that is no UTF-8 shows only where it is used
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FormatError(f"not Parquet: {one_line(error)}") from error
    if nulls := [field.name for field in schema or () if table[field.name].null_count]:
        raise FormatError(f"column {nulls[0]} has nulls")
    return table


def check_table(file: "pq.ParquetFile", schema: "pa.Schema | None", rows: int | None) -> None:
    """Raise FormatError unless a Parquet file has these columns and so many rows, as far as asked for."""
    if rows is not None and file.metadata.num_rows != rows:
        raise FormatError(f"it has {file.metadata.num_rows} rows instead of {rows}")
    for field in schema or ():
        place = file.schema_arrow.get_field_index(field.name)
        if place < 0 or file.schema_arrow.field(place).type != field.type:
            raise FormatError(f"it has no column {field.name} of {field.type}")
