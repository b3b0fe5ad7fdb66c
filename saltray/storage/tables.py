"""Parquet files that are larger than what is held of them: written and read a part at a time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saltray.errors import one_line
from saltray.storage.files import no_scratch
from saltray.storage.formats import COMPRESSION, FormatError, check_table

if TYPE_CHECKING:
    import pyarrow as pa


def write_tables(path: Path, schema: "pa.Schema", tables: "Iterable[pa.Table]") -> None:
    """Write a Parquet file with a row group of each table.

    Raises:
        StorageError: the disk is full, for instance.
    """
    import pyarrow.parquet as pq

    try:
        writer = pq.ParquetWriter(path, schema, compression=COMPRESSION)
    except OSError as error:
        raise no_scratch(error) from error
    with writer:
        for table in tables:
            try:
                writer.write_table(table)
            except OSError as error:
                raise no_scratch(error) from error


class TableFile:
    """A Parquet file on this machine.

    Args:
        path: the file.
        schema: columns that it must have, of these types and without nulls.
        rows: number of rows that it must have.

    Raises:
        FormatError: not Parquet, or without such columns and rows.
    """

    def __init__(self, path: Path, schema: "pa.Schema", rows: int) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        with _explained():
            self._file = pq.ParquetFile(path)
            check_table(self._file, schema, rows)

    def parts(self, rows: int) -> "Iterator[pa.Table]":
        """The columns of the schema, so many rows at a time or fewer.

        Raises:
            FormatError: the file is corrupted.
        """
        import pyarrow as pa

        with _explained():
            for batch in self._file.iter_batches(rows, columns=self._schema.names):
                yield self._checked(pa.Table.from_batches([batch]))

    def row(self, number: int) -> "pa.Table":
        """One row of the same.

        Raises:
            FormatError: the file is corrupted.
        """
        with _explained():
            start = 0
            for group in range(self._file.num_row_groups):
                here = self._file.metadata.row_group(group).num_rows
                if number < start + here:
                    table = self._file.read_row_group(group, columns=self._schema.names)
                    return self._checked(table.slice(number - start, 1))
                start += here
        raise AssertionError(f"there is no row {number}")

    def _checked(self, table: "pa.Table") -> "pa.Table":
        table.validate(full=True)
        if nulls := [name for name in self._schema.names if table[name].null_count]:
            raise FormatError(f"column {nulls[0]} has nulls")
        return table


@contextmanager
def _explained() -> Iterator[None]:
    """Turn pyarrow's errors into FormatErrors."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FormatError(f"not Parquet: {one_line(error)}") from error
