"""Parquet files that are larger than what is held of them: written and read a part at a time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saltray.errors import IntegrityError, one_line
from saltray.storage.files import no_scratch
from saltray.storage.formats import COMPRESSION, FormatError, check_table

if TYPE_CHECKING:
    import pyarrow as pa

RESTORE = "restore it or write it again"
"""What to do about a damaged object."""


def write_tables(path: Path, schema: "pa.Schema", tables: "Iterable[pa.Table]") -> None:
    """Write a Parquet file with a row group of each table.

    Raises:
        StorageError: the disk is full, for instance.
    """
    import pyarrow.parquet as pq

    with _disk_explained():
        writer = pq.ParquetWriter(path, schema, compression=COMPRESSION)
    try:
        for table in tables:
            with _disk_explained():
                writer.write_table(table)
    finally:
        with _disk_explained():
            writer.close()


@contextmanager
def _disk_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_scratch(error) from error


class TableFile:
    """A Parquet file on this machine.

    Args:
        path: the file.
        where: what to call it in errors.
        schema: columns that it must have, of these types and without nulls.
        rows: number of rows that it must have.

    Raises:
        IntegrityError: not Parquet, or without such columns and rows.
    """

    def __init__(self, path: Path, where: str, schema: "pa.Schema", rows: int) -> None:
        import pyarrow.parquet as pq

        self.where = where
        self._schema = schema
        with self._explained():
            # pre_buffer keeps the bytes of every row group that was read until the reading ends.
            self._file = pq.ParquetFile(path, pre_buffer=False)
            check_table(self._file, schema, rows)

    def parts(self, rows: int) -> "Iterator[pa.Table]":
        """The columns of the schema, so many rows at a time or fewer.

        Raises:
            IntegrityError: the file is corrupted.
        """
        import pyarrow as pa

        with self._explained():
            for batch in self._file.iter_batches(rows, columns=self._schema.names):
                yield self._checked(pa.Table.from_batches([batch]))

    def row(self, number: int) -> "pa.Table":
        """One row of the same.

        Raises:
            IntegrityError: the file is corrupted.
        """
        with self._explained():
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
    def _explained(self) -> Iterator[None]:
        """Turn what is wrong with the file into an IntegrityError."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{self.where}: not Parquet: {one_line(error)}; {RESTORE}") from error
        except FormatError as error:
            raise IntegrityError(f"{self.where}: {error}; {RESTORE}") from error
