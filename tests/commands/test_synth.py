"""`saltray.synth`: its arguments reach the generator."""

import inspect
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

import saltray
from saltray.data.packing import open_packed
from saltray.data.synthetic import write_dataset
from saltray.errors import ConfigError, DataError, StorageError
from saltray.storage.s3 import S3Store
from saltray.storage.uri import open_store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_data_set_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    assert saltray.synth(str(folder), tiles=5, seed=3, test_tiles=1, noise=0.5) == str(folder)
    assert len(list((folder / "train/images").iterdir())) == 5
    same = write_dataset(tmp_path / "same", tiles=5, seed=3, test_tiles=1, noise=0.5)
    assert contents(folder) == contents(same)
    for other in ({"seed": 4, "noise": 0.5}, {"seed": 3, "noise": 1.0}):
        another = tmp_path / str(other["noise"])
        saltray.synth(another, tiles=5, test_tiles=1, **other)  # type: ignore[arg-type]
        assert contents(another) != contents(folder)


def test_its_defaults_are_those_of_the_generator() -> None:
    mine, below = (inspect.signature(function).parameters for function in (saltray.synth, write_dataset))
    assert mine.keys() - below.keys() == {"packed"}
    assert {name: mine[name].default for name in below} | {"observer": None} == {
        name: below[name].default for name in below
    }


def test_a_packed_data_set_is_written(tmp_path: Path) -> None:
    uri = saltray.synth(tmp_path / "store", tiles=5, size=20, packed=True)
    assert uri.startswith(f"{tmp_path}/store/datasets/synth-")
    assert len(open_packed(uri, open_store(str(tmp_path / "other")))) == 5
    with pytest.raises(ConfigError, match="test_tiles is 2, but a packed data set has no test tiles; leave it out"):
        saltray.synth(tmp_path / "store", tiles=5, test_tiles=2, packed=True)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiles"):
        saltray.synth(tmp_path / "tiles", tiles=0)
    assert not (tmp_path / "tiles").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        saltray.synth(tmp_path, tiles=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_data_set_is_written_to_s3(s3_uri: Callable[[], str], tmp_path: Path) -> None:
    uri = s3_uri()
    assert saltray.synth(f"{uri}/", tiles=3, test_tiles=1) == uri
    same = contents(write_dataset(tmp_path / "same", tiles=3, test_tiles=1))
    store = open_store(uri)
    assert {entry.key: store.get(entry.key) for entry in store.list()} == same
    assert saltray.check(uri).train_tiles == 3
    with pytest.raises(DataError, match=f"{uri} is not empty; choose another prefix, or delete it first"):
        saltray.synth(uri, tiles=3)


def test_nothing_is_left_in_s3_of_an_incomplete_data_set(
    s3_uri: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, put = s3_uri(), S3Store.put

    def refused(store: S3Store, key: str, data: bytes) -> None:
        if key == "train.csv":  # the last of the files
            put(store, "mine", b"of another writer")
            raise StorageError("access is denied")
        put(store, key, data)

    monkeypatch.setattr(S3Store, "put", refused)
    with pytest.raises(StorageError, match="access is denied"):
        saltray.synth(uri, tiles=3)
    assert [entry.key for entry in open_store(uri).list()] == ["mine"]


def test_a_full_temporary_folder_is_told_as_such(s3_uri: Callable[[], str]) -> None:
    uri, before = s3_uri(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(StorageError, match="temporary files cannot be written to .*: File too large; .* TMPDIR"):
            saltray.synth(uri, tiles=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(open_store(uri).list())


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3:/bucket/x", Path("s3://bucket/x"), "http://host/x"])
def test_a_place_that_cannot_be_written_is_not_taken_for_a_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="use a path, file:///path or s3://bucket/key"):
        saltray.synth(uri, tiles=2)
    assert not list(tmp_path.iterdir())


def test_a_file_uri(tmp_path: Path) -> None:
    assert saltray.synth(f"file://{tmp_path}/a%20b", tiles=1) == f"{tmp_path}/a b"
    assert (tmp_path / "a b/train.csv").exists()


def test_a_folder_of_one_job_of_a_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="the folder tiles is in the working directory of this one job"):
        saltray.synth("tiles", tiles=2)
    assert not list(tmp_path.iterdir())
    assert saltray.synth(tmp_path / "tiles", tiles=1) == f"{tmp_path}/tiles"
