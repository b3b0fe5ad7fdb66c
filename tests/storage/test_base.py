"""The guarantees of `Store`, on each kind of store."""

import hashlib
import pickle
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import foreign_object

from saltray.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Store
from saltray.storage.files import TEMP_PREFIX
from saltray.storage.s3 import PART_BYTES
from saltray.storage.uri import open_store

MIB = 1 << 20


def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def test_put_creates_and_replaces(store: Store) -> None:
    store.put("a/b", b"one")
    assert store.get("a/b") == b"one"
    store.put("a/b", b"two")
    assert store.get("a/b") == b"two"
    store.put("a/b", b"")
    assert store.get("a/b") == b""


def test_put_new_never_replaces(store: Store) -> None:
    assert store.put_new("a/b", b"one") is True
    assert store.put_new("a/b", b"two") is False
    assert store.put_new("a/b", b"one") is False  # equal bytes, but from another call
    assert store.get("a/b") == b"one"
    store.delete("a/b")
    assert store.put_new("a/b", b"two") is True


def test_exactly_one_of_16_concurrent_writers_creates_an_object(store: Store) -> None:
    for race in range(5):
        start = threading.Barrier(16)

        def write(number: int, key: str = f"race-{race}", start: threading.Barrier = start) -> bool:
            start.wait()
            return store.put_new(key, b"writer %d" % number)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(write, range(16)))
        assert won.count(True) == 1
        assert store.get(f"race-{race}") == b"writer %d" % won.index(True)


@pytest.mark.parametrize("size", [0, 1, MIB + 1, PART_BYTES + 12_345])
def test_files_round_trip(size: int, store: Store, tmp_path: Path) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(data[:size])
    digest = hashlib.sha256(data[:size]).hexdigest()
    assert store.put_file("a/file", source) == digest
    assert store.entry("a/file").size == size
    store.get_file("a/file", copy, sha256=digest)
    assert copy.read_bytes() == data[:size]
    assert store.get("a/file", sha256=digest) == data[:size]


def test_missing_objects(store: Store, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    store.put("folder/object", b"1")
    for key in ("absent", "folder", "folder/absent", "folder/object/absent"):
        assert not store.exists(key)
        for call in (store.get, store.get_json, store.get_table, store.entry):
            with pytest.raises(NotFoundError, match=f"{key}: there is no such object"):
                call(key)
        for path in (tmp_path / "new", kept):
            with pytest.raises(NotFoundError):
                store.get_file(key, path)
        store.delete(key)
        store.delete_prefix("absent")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept"]
    assert kept.read_bytes() == b"kept"
    assert list(store.list("absent")) == []
    assert store.folders("absent") == []
    assert store.exists("folder/object")


def test_put_file_of_a_missing_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        store.put_file("a", tmp_path / "absent")
    assert keys(store) == []


def test_prefixes_are_folders(store: Store) -> None:
    for key in ("runs/r1/a", "runs/r1/b/c", "runs/r10/a", "runs/r1-x", "top"):
        store.put(key, b"12345")
    assert keys(store) == ["runs/r1-x", "runs/r1/a", "runs/r1/b/c", "runs/r10/a", "top"]
    assert keys(store, "runs/r1") == ["runs/r1/a", "runs/r1/b/c"]
    assert keys(store, "runs/r") == []
    assert store.folders() == ["runs"]
    assert store.folders("runs") == ["r1", "r10"]
    assert store.folders("runs/r1") == ["b"]
    assert (store.names(), store.sub("runs").names()) == (["runs", "top"], ["r1", "r1-x", "r10"])
    assert store.sub("absent").names() == []
    store.delete_prefix("runs/r1")
    assert keys(store) == ["runs/r1-x", "runs/r10/a", "top"]
    assert store.folders("runs") == ["r10"]


def test_a_folder_whose_name_may_not_be_in_a_key_hides_no_other(store: Store) -> None:
    store.put("runs/r1/a", b"1")
    foreign_object(store, "runs/a\tb/f")
    assert store.folders("runs") == ["r1"]
    assert keys(store, "runs") == ["runs/a\tb/f", "runs/r1/a"]


PARTS = st.sampled_from(["a", "a-", "a.b", "a0", "b", "B", "é"])
KEYS = st.lists(PARTS, min_size=0, max_size=2).map(lambda parts: "/".join([*parts, "object"]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["put", "put", "new", "delete", "prefix"]), KEYS), max_size=12))
def test_a_store_is_a_sorted_dictionary(steps: list[tuple[str, str]], store: Store) -> None:
    here = store.sub(f"example-{uuid.uuid4()}")
    model: dict[str, bytes] = {}
    for step, (verb, key) in enumerate(steps):
        data = b"step %d" % step
        match verb:
            case "put":
                here.put(key, data)
                model[key] = data
            case "new":
                assert here.put_new(key, data) is (key not in model)
                model.setdefault(key, data)
            case "delete":
                here.delete(key)
                model.pop(key, None)
            case "prefix":
                folder = key.rpartition("/")[0] or "object"
                here.delete_prefix(folder)
                model = {name: value for name, value in model.items() if not name.startswith(f"{folder}/")}
    for prefix in ("", "a", "a/a", "b"):
        below = f"{prefix}/" if prefix else ""
        inside = sorted(name for name in model if name.startswith(below))
        assert keys(here, prefix) == inside
        folders = {name.removeprefix(below).split("/")[0] for name in inside if "/" in name.removeprefix(below)}
        assert here.folders(prefix) == sorted(folders)
    assert {entry.key: entry.size for entry in here.list()} == {name: len(value) for name, value in model.items()}
    assert {name: here.get(name) for name in model} == model


def test_a_tag_changes_with_the_content(store: Store) -> None:
    store.put("a", b"one")
    first = store.entry("a")
    assert first == store.entry("a") == next(store.list())
    store.put("a", b"three")
    assert store.entry("a").tag != first.tag
    assert store.entry("a").size == 5


def test_unfinished_objects_are_not_listed(store: Store) -> None:
    store.put(f"a/{TEMP_PREFIX}0", b"half")
    store.put("a/whole", b"1")
    assert keys(store) == ["a/whole"]
    store.delete_prefix("a")
    assert not store.exists(f"a/{TEMP_PREFIX}0")


def test_concurrent_readers_see_complete_objects(store: Store) -> None:
    contents = [bytes([number]) * MIB for number in (1, 2)]
    store.put("a", contents[0])
    done = threading.Event()

    def read() -> list[bool]:
        seen = []
        while not done.is_set():
            seen.append(store.get("a") in contents)
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for step in range(20):
            store.put("a", contents[step % 2])
        done.set()
    for reader in readers:
        assert reader.result()
        assert all(reader.result())


def corruptions(data: bytes) -> list[bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return [data[:-1], b"", bytes(flipped), data + b"\0"]


@pytest.mark.parametrize("kind", range(4), ids=["truncated", "empty", "flipped bit", "longer"])
def test_corruption_is_detected_before_parsing(
    kind: int, store: Store, corrupt: Callable[[str, bytes], None], tmp_path: Path
) -> None:
    table = pa.table({"x": list(range(1000))})
    digest = store.put_table("a/table", table)
    whole = store.get("a/table", sha256=digest)
    corrupt("a/table", corruptions(whole)[kind])
    for call in (store.get, store.get_table):
        with pytest.raises(IntegrityError, match=f"a/table: its SHA-256 is [0-9a-f]{{64}}, not {digest}"):
            call("a/table", sha256=digest)
    with pytest.raises(IntegrityError, match="its SHA-256 is"):
        store.get_file("a/table", tmp_path / "copy", sha256=digest)
    assert not any(path.is_file() for path in tmp_path.iterdir())
    if store.uri.startswith("s3://"):  # S3 stores the digest with the object
        with pytest.raises(IntegrityError, match="its SHA-256 is"):
            store.get("a/table")


@dataclass(frozen=True)
class Rate:
    value: float

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ConfigError(f"value is {self.value}; use 0 or more")


def test_json_and_records_round_trip_as_canonical_json(store: Store) -> None:
    canonical = b'{\n  "value": 1.5\n}\n'
    store.put_record("record", Rate(1.5))
    store.put_json("json", {"value": 1.5})
    assert store.put_new_record("new record", Rate(1.5)) is True
    assert store.put_new_json("new json", {"value": 1.5}) is True
    assert store.put_new_record("new record", Rate(2.0)) is False
    assert store.put_new_json("new json", {}) is False
    for key in ("record", "json", "new record", "new json"):
        assert store.get(key) == canonical
        assert store.get_record(key, Rate) == Rate(1.5)
        assert store.get_json(key) == {"value": 1.5}


def test_tables_round_trip(store: Store) -> None:
    table = pa.table({"id": ["a", "b"], "image": [b"\0\1", b""], "fold": pa.array([1, None], pa.int8())})
    digest = store.put_table("t.parquet", table)
    assert digest == hashlib.sha256(store.get("t.parquet")).hexdigest()
    assert store.get_table("t.parquet", sha256=digest).equals(table)


def test_an_object_in_another_format_is_named_with_the_remedy(store: Store) -> None:
    store.put("a", b'{"value": 1.5, "unit": "s"')
    for call, fault in (
        (store.get_json, "not JSON: .*; restore it or write it again"),
        (store.get_table, "not Parquet: .*; restore it or write it again"),
        (lambda key: store.get_record(key, Rate), "not JSON: .*; restore it or write it again"),
    ):
        with pytest.raises(IntegrityError, match=f"^{re.escape(store.uri)}/a: {fault}$"):
            call("a")
    store.put_json("a", {"value": -1.0})
    with pytest.raises(IntegrityError, match=f"^{re.escape(store.uri)}/a: value is -1.0; use 0 or more$"):
        store.get_record("a", Rate)


def test_a_store_pickles_to_its_uri_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"1")  # creates the client; on S3, its credentials contain "secret"
    frozen = pickle.dumps(store)
    assert b"secret" not in frozen
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "7")
    copy = pickle.loads(frozen)
    assert copy.get("a") == b"1"
    assert copy == store
    assert hash(copy) == hash(store)
    assert copy.deadline_s == 7
    assert repr(copy) == f"open_store({store.uri!r})"


def test_sub_is_the_store_below_a_prefix(store: Store) -> None:
    deeper = store.sub("runs").sub("r1/fold-0")
    deeper.put("a/b", b"1")
    assert keys(store) == ["runs/r1/fold-0/a/b"]
    assert keys(deeper) == ["a/b"]
    assert deeper.folders() == ["a"]
    assert deeper == open_store(f"{store.uri}/runs/r1/fold-0")
    assert deeper != store
    assert store.sub("runs").exists("r1/fold-0/a/b")


def test_check_writable_leaves_no_object(store: Store) -> None:
    store.put("a", b"1")
    store.check_writable()
    assert keys(store) == ["a"]
    if not store.uri.startswith("s3://"):
        assert [path.name for path in Path(store.uri).iterdir()] == ["a"]
