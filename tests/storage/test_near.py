"""The path or URI that may have been meant by one at which there is nothing, in a folder and in S3."""

from pathlib import Path

import pytest

from saltray.storage.folder import FolderStore
from saltray.storage.near import is_there, near_uri
from saltray.storage.s3 import S3Store
from saltray.storage.uri import open_store

KEYS = ("pretrained/p1/model.safetensors", "runs/r1/fold-0/model.safetensors", "datasets/salt-0a1b/manifest.json")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("pretrained/p1/model.safetensor", "pretrained/p1/model.safetensors"),
        ("pretrained/p2/model.safetensors", "pretrained/p1/model.safetensors"),
        ("pretraind/p1/model.safetensors", "pretrained/p1/model.safetensors"),
        ("runs/r2/fold-0/model.safetensors", "runs/r1/fold-0/model.safetensors"),
        ("pretrained/p2/other.pt", None),
        ("datasets/salt-0a1c", "datasets/salt-0a1b"),
        ("datasets/salt-0a1c/", "datasets/salt-0a1b"),
        ("datasets/field", None),
        ("runs/r1/fold-7", "runs/r1/fold-0"),
        ("quite/another/thing", None),
    ],
)
def test_one_part_may_be_wrong(any_store_uri: str, given: str, near: str | None) -> None:
    for key in KEYS:
        open_store(any_store_uri).put(key, b"x")
    assert near_uri(f"{any_store_uri}/{given}") == (near and f"{any_store_uri}/{near}")


def test_whoever_asks_may_refuse_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "tiles.txt").touch()
    uri = f"{tmp_path}/tiles.txx"
    assert near_uri(uri) == f"{tmp_path}/tiles.txt"
    assert near_uri(uri, lambda found: Path(found).is_dir()) is None


def test_names_that_a_terminal_would_obey_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "job\x1b[31m.toml").touch()
    assert near_uri(f"{tmp_path}/jo.toml") is None


def test_one_request_a_folder_is_enough(any_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        open_store(any_store_uri).put(key, b"x")
    for name in ("list", "folders"):
        for kind in (FolderStore, S3Store):
            monkeypatch.setattr(kind, name, None)  # of a flat prefix they may ask a thousand times
    assert is_there(f"{any_store_uri}/runs")
    assert near_uri(f"{any_store_uri}/runs/r2") == f"{any_store_uri}/runs/r1"


def test_a_relative_path_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiles").mkdir()
    monkeypatch.chdir(tmp_path)
    assert near_uri("tilse") == near_uri("tilse/") == "tiles"
    assert near_uri("./tilse") == "./tiles"


@pytest.mark.parametrize(
    "uri", ["", "/", ".", "~", "~nobody-of-this-name/x", "gs://b/x", "s3://b", "a\x00b/c", "x" * 500]
)
def test_what_is_no_uri_has_none_near(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert near_uri(uri) is None


def test_a_bucket_that_there_is_not_tells_nothing(s3_server: str) -> None:
    assert near_uri("s3://no-such-bucket/tiles") is None


def test_a_file_and_a_folder_are_there(any_store_uri: str) -> None:
    open_store(any_store_uri).put("a/b", b"x")
    assert [is_there(f"{any_store_uri}/{key}") for key in ("a/b", "a", "b")] == [True, True, False]
    assert is_there("/")
