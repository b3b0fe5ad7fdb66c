"""Parquet files that are written and read a part at a time."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saltray.errors import IntegrityError, StorageError
from saltray.storage.base import Store
from saltray.storage.tables import TableFile, write_tables

SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary())])


def table_of(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids), "image": [name.encode() * 3 for name in ids]}, schema=SCHEMA)


def test_a_table_is_written_and_read_in_parts(store: Store) -> None:
    made: list[int] = []

    def parts() -> Iterator[pa.Table]:
        for number in range(3):
            made.append(number)
            yield table_of(*(f"{number}{at}" for at in range(number + 1)))

    digest = store.put_tables("t.parquet", SCHEMA, parts())
    assert made == [0, 1, 2]
    assert digest == hashlib.sha256(store.get("t.parquet")).hexdigest()
    ids = ["00", "10", "11", "20", "21", "22"]
    assert store.get_table("t.parquet", sha256=digest, schema=SCHEMA, rows=6)["id"].to_pylist() == ids
    with store.table_file("t.parquet", sha256=digest, schema=SCHEMA, rows=6) as file:
        read = list(file.parts(2))
        assert max(len(part) for part in read) <= 2
        assert pa.concat_tables(read).equals(table_of(*ids))
        assert [file.row(number)["id"].to_pylist() for number in range(6)] == [[name] for name in ids]


def test_parts_that_were_read_are_not_held(tmp_path: Path) -> None:
    """Of 64 row groups of 64 KiB of noise, a few at a time."""
    noise = np.random.default_rng(0)
    groups = (pa.table({"id": [str(n)], "image": [noise.bytes(65536)]}, schema=SCHEMA) for n in range(64))
    write_tables(tmp_path / "t", SCHEMA, groups)
    before, held = pa.total_allocated_bytes(), 0
    for part in TableFile(tmp_path / "t", "t", SCHEMA, 64).parts(1):
        assert len(part) == 1
        held = max(held, pa.total_allocated_bytes() - before)
    assert held < 10 * 65536


def test_an_error_of_the_parts_leaves_no_object(store: Store) -> None:
    def parts() -> Iterator[pa.Table]:
        yield table_of("a")
        raise KeyError("b")

    with pytest.raises(KeyError):
        store.put_tables("t.parquet", SCHEMA, parts())
    assert not store.exists("t.parquet")


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (pa.table({"id": ["a", "b"]}), "it has no column image of binary"),
        (pa.table({"id": ["a"], "image": [b"a"]}), "it has 1 rows instead of 2"),
        (pa.table({"id": ["a", None], "image": [b"a", b"b"]}), "column id has nulls"),
    ],
)
def test_a_table_of_other_columns_or_rows_is_refused(store: Store, table: pa.Table, fault: str) -> None:
    digest = store.put_table("t.parquet", table)
    with (
        pytest.raises(IntegrityError, match=f"t.parquet: {fault}; restore it or write it again"),
        store.table_file("t.parquet", sha256=digest, schema=SCHEMA, rows=2) as file,
    ):
        list(file.parts(9))


def test_a_file_that_is_not_parquet_or_of_another_digest_is_refused(store: Store) -> None:
    store.put("t.parquet", b"PAR1")
    sha256 = hashlib.sha256(b"PAR1").hexdigest()
    with (
        pytest.raises(IntegrityError, match="t.parquet: not Parquet: "),
        store.table_file("t.parquet", sha256=sha256, schema=SCHEMA, rows=1),
    ):
        pass
    with (
        pytest.raises(IntegrityError, match="so it is corrupted"),
        store.table_file("t.parquet", sha256="0" * 64, schema=SCHEMA, rows=1),
    ):
        pass


def test_each_file_names_itself(tmp_path: Path) -> None:
    """Also where several are open."""
    write_tables(tmp_path / "a", SCHEMA, [table_of("a")])
    pq.write_table(pa.table({"id": [None], "image": [b"b"]}, schema=SCHEMA), tmp_path / "b")
    first, second = (TableFile(tmp_path / name, name, SCHEMA, 1) for name in ("a", "b"))
    assert len(list(first.parts(1))) == 1
    with pytest.raises(IntegrityError, match="^b: column id has nulls"):
        second.row(0)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="temporary files cannot be written"):
        write_tables(tmp_path / "no such folder" / "t", SCHEMA, [table_of("a")])
