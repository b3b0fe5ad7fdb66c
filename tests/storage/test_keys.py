from dataclasses import dataclass
from pathlib import Path

import pytest

from saltray.errors import StorageError
from saltray.records import RecordError, from_record
from saltray.storage.base import Store
from saltray.storage.keys import Key, check_key, is_key

BAD_KEYS = ["", "/a", "a/", "a//b", ".", "a/../b", "..", "a/./b", "a\nb", "a\0b"]
GOOD_KEYS = ["a", "a/b.c", ".hidden", "..a/b", "grüß/塩.png", "with blank"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_every_method_refuses_a_bad_key(key: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    assert not is_key(key)
    for call in (
        lambda: check_key(key),
        lambda: store.put(key, b""),
        lambda: store.put_new(key, b""),
        lambda: store.put_file(key, file),
        lambda: store.get(key),
        lambda: store.get_file(key, file),
        lambda: store.entry(key),
        lambda: store.delete(key),
        lambda: store.delete_prefix(key),
        lambda: store.sub(key),
    ):
        with pytest.raises(StorageError, match="is not an object key; use relative names separated by '/'"):
            call()
    assert list(store.list()) == []


@pytest.mark.parametrize("key", GOOD_KEYS)
def test_a_good_key_names_an_object(key: str, store: Store) -> None:
    assert check_key(key) == key
    store.put(key, b"1")
    assert [entry.key for entry in store.list()] == [key]
    assert store.get(key) == b"1"


@dataclass(frozen=True)
class Named:
    key: Key


def test_a_key_in_a_record_stays_in_the_store() -> None:
    for key in GOOD_KEYS:
        assert from_record(Named, {"key": key}) == Named(key)
    for key in BAD_KEYS:
        with pytest.raises(RecordError, match="^key is .*; it should be relative names separated by '/'"):
            from_record(Named, {"key": key})
