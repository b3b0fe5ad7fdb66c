from pathlib import Path

import pytest

from saltray.errors import ConfigError, StorageError
from saltray.storage.base import Store
from saltray.storage.names import check_key, open_store


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert open_store("a/../b/").uri == f"{tmp_path}/b"
    assert open_store(f"file://{tmp_path}/with%20blank").uri == f"{tmp_path}/with blank"
    assert open_store("~/store").uri == "/home/someone/store"
    assert list(tmp_path.iterdir()) == []  # nothing was touched


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
    ],
)
def test_s3(uri: str, expected: str) -> None:
    assert open_store(uri).uri == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "gs://bucket/x",
        "https://bucket.s3.amazonaws.com/x",
        "file://host/x",
        "s3://",
        "s3://b",
        "s3:///x",
        "s3://bucket//x",
        "s3://bucket/../x",
        "s3://bucket/x?endpoint_override=minio:9000",
        "s3://a bucket/x",
    ],
)
def test_a_wrong_uri_is_a_config_error_on_one_line(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        open_store("s3://AKIAXXXX:top-secret@bucket/prefix")
    assert "top-secret" not in str(caught.value)


BAD_KEYS = ["", "/a", "a/", "a//b", ".", "a/../b", "..", "a/./b", "a\nb", "a\0b"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_reaches_no_store(key: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
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
        with pytest.raises(StorageError, match="is no object key"):
            call()
    assert list(store.list()) == []


@pytest.mark.parametrize("key", ["a", "a/b.c", ".hidden", "..a/b", "grüß/塩.png", "with blank"])
def test_a_good_key_names_an_object(key: str, store: Store) -> None:
    store.put(key, b"1")
    assert [entry.key for entry in store.list()] == [key]
    assert store.get(key) == b"1"
