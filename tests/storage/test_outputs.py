"""What a command writes for its user: whole, or not at all, in a folder and in S3."""

import os
import resource
import signal
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest
from command import require

from saltray.errors import ConfigError, StorageError
from saltray.storage.files import TEMP_PREFIX
from saltray.storage.outputs import (
    check_apart,
    full_name,
    output_file,
    output_folder,
    probe_output,
    put_folder,
    put_whole_folder,
)
from saltray.storage.s3 import PART_BYTES
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, FOREVER, Fault, FaultProxy


class WorkError(Exception):
    """What goes wrong during the work."""


def files(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def objects(uri: str) -> dict[str, bytes]:
    """All objects of a store, those that a listing omits too."""
    if not uri.startswith("s3://"):
        return {name: Path(uri, name).read_bytes() for name in files(Path(uri)) if Path(uri, name).is_file()}
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    found = boto3.session.Session().client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")
    names = [item["Key"].removeprefix(f"{prefix}/") for item in found.get("Contents", [])]
    return {name: open_store(uri).get(name) for name in names}


def test_a_file_appears_at_the_end_and_replaces_the_one_before(any_store_uri: str) -> None:
    uri = f"{any_store_uri}/deeper/x.csv"
    for data in (b"one", b"two"):
        before = objects(any_store_uri)
        with output_file(uri) as draft:
            assert draft.uri == uri
            draft.path.write_bytes(data)
            assert {name for name in objects(any_store_uri) if TEMP_PREFIX not in name} == set(before)
        assert objects(any_store_uri) == {"deeper/x.csv": data}
    assert not draft.path.exists()


@pytest.mark.parametrize("old", [None, b"old"])
def test_nothing_is_left_of_a_file_that_failed(any_store_uri: str, old: bytes | None) -> None:
    store = open_store(any_store_uri)
    if old is not None:
        store.put("deeper/x.csv", old)
    with pytest.raises(WorkError), output_file(f"{any_store_uri}/deeper/x.csv") as draft:
        draft.path.write_bytes(b"half")
        raise WorkError
    assert not draft.path.exists()
    assert objects(any_store_uri) == ({} if old is None else {"deeper/x.csv": old})
    if not any_store_uri.startswith("s3://"):
        assert Path(any_store_uri, "deeper").exists() == (old is not None)


def test_the_files_of_a_folder_appear_at_the_end(any_store_uri: str) -> None:
    store = open_store(any_store_uri)
    store.put("masks/a.png", b"old")
    store.put("masks/other.png", b"kept")
    with pytest.raises(WorkError), output_folder(f"{any_store_uri}/masks") as draft:
        draft.path.joinpath("a.png").write_bytes(b"half")
        raise WorkError
    assert objects(any_store_uri) == {"masks/a.png": b"old", "masks/other.png": b"kept"}
    with output_folder(f"{any_store_uri}/masks") as draft:
        for name in ("a", "b"):
            draft.path.joinpath(f"{name}.png").write_bytes(name.encode())
        assert store.get("masks/a.png") == b"old"
    assert objects(any_store_uri) == {"masks/a.png": b"a", "masks/b.png": b"b", "masks/other.png": b"kept"}
    assert not draft.path.exists()


@pytest.mark.parametrize("store_kind", ["folder"])
def test_no_file_is_added_where_one_cannot_be(any_store_uri: str) -> None:
    store = open_store(any_store_uri)
    store.put("masks/b.png/mine", b"kept")
    store.put("masks/c.png", b"old")
    fault = rf"cannot write .*masks: Is a directory \({any_store_uri}/masks/b.png\); a folder exists where a file is"
    with pytest.raises(StorageError, match=fault), output_folder(f"{any_store_uri}/masks") as draft:
        for name in "abc":
            draft.path.joinpath(f"{name}.png").write_bytes(b"new")
    assert objects(any_store_uri) == {"masks/b.png/mine": b"kept", "masks/c.png": b"old"}


def test_nothing_is_left_of_a_folder_that_failed(any_store_uri: str) -> None:
    with pytest.raises(WorkError), output_folder(f"{any_store_uri}/deeper/masks") as draft:
        draft.path.joinpath("a.png").write_bytes(b"half")
        raise WorkError
    assert objects(any_store_uri) == {}
    assert any_store_uri.startswith("s3://") or not Path(any_store_uri).exists()


def test_paths_that_are_not_strings_and_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (Path("a.csv"), f"file://{tmp_path}/b%20c.csv"):
        with output_file(uri) as draft:
            draft.path.write_bytes(b"1")
    assert files(tmp_path) == {"a.csv", "b c.csv"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.csv").symlink_to("disk/real.csv")
    (tmp_path / "masks").symlink_to("disk")
    with output_file(tmp_path / "x.csv") as draft:
        draft.path.write_bytes(b"1")
    with output_folder(tmp_path / "masks") as folder:
        folder.path.joinpath("a.png").write_bytes(b"2")
    assert files(tmp_path) == {"disk", "disk/real.csv", "disk/a.png", "x.csv", "masks"}
    assert (tmp_path / "x.csv").is_symlink()


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with output_file(tmp_path / "x") as first, output_file(tmp_path / "x") as second:
        first.path.write_bytes(b"first")
        second.path.write_bytes(b"second")
    assert files(tmp_path) == {"x"}
    assert (tmp_path / "x").read_bytes() == b"first"  # which ended last


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("folder", "cannot write .*folder: it is a folder; name a file in it"),
        ("pipe", "cannot write .*pipe: it is a device or a pipe; name a file"),
        ("file/x", "cannot write .*file/x: .*; move it, or choose another folder"),
        ("long" * 100, "cannot write .*: File name too long .*; use shorter names"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(uri: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((ConfigError, StorageError), match=fault), output_file(tmp_path / uri):
        pytest.fail("the work begins")
    assert files(tmp_path) == {"folder", "file", "pipe"}


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in ("file", "file/deeper"):
        with pytest.raises(StorageError, match=f"cannot write .*{uri}: .*; move it"), output_folder(tmp_path / uri):
            pytest.fail("the work begins")
    assert files(tmp_path) == {"file"}


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("output", [output_file, output_folder])
def test_a_bucket_that_cannot_be_written_is_refused_before_the_work(output: object, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"), output("s3://no-such-bucket/x"):  # type: ignore[operator]
        pytest.fail("the work begins")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(f"no small file system: {done.stderr.strip()}; allow mounts" if done.returncode else None)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_ends_in_one_line_and_nothing_is_left(small_disk: Path) -> None:
    (small_disk / "x.csv").write_bytes(b"old")
    full = r"cannot write \S*/x.csv: No space left on device.*; free some space there"
    with (
        pytest.raises(StorageError, match=full),
        output_file(small_disk / "x.csv") as draft,
        draft.writing() as path,
        path.open("wb") as file,
    ):
        for _ in range(100):
            file.write(bytes(4096))
    with (
        pytest.raises(StorageError, match="cannot write .*/new/masks: No space left"),
        output_folder(small_disk / "new/masks") as draft,
        draft.writing() as path,
    ):
        for number in range(100):
            (path / f"{number}.png").write_bytes(bytes(4096))
    assert files(small_disk) == {"x.csv"}
    assert (small_disk / "x.csv").read_bytes() == b"old"


def test_a_full_temporary_folder_is_told_as_such(
    small_disk: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    uri = "s3://saltray-test/full/x"
    with (
        pytest.raises(StorageError, match=f"cannot write {uri}: .* {small_disk}: No space left.*set TMPDIR"),
        output_file(uri) as draft,
        draft.writing() as path,
    ):
        path.write_bytes(bytes(100 * 4096))
    assert not list(small_disk.iterdir())
    assert objects("s3://saltray-test/full") == {}
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    for output in (output_file, output_folder):
        with pytest.raises(StorageError, match="temporary files cannot be written to /nowhere"), output(uri):
            pytest.fail("the work begins")


def test_a_limit_on_the_size_of_files_ends_in_one_line(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with (
            pytest.raises(StorageError, match="cannot write .*/x: File too large"),
            output_file(tmp_path / "x") as draft,
            draft.writing() as path,
        ):
            path.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path) == set()


@pytest.mark.parametrize(("method", "request_of"), [("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_an_upload_that_breaks_off_leaves_the_object_before(
    method: str, request_of: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "0.1")
    uri = f"s3://{BUCKET}/{uuid.uuid4()}"
    open_store(uri).put("x", b"old")
    with pytest.raises(StorageError, match="gave up"), output_file(f"{uri}/x") as draft:
        draft.path.write_bytes(bytes(PART_BYTES + 1))  # in two parts
        proxy.faults.append(Fault(method, request_of, status=500, times=FOREVER))
    assert objects(uri) == {"x": b"old"}
    assert not boto3.session.Session().client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads")


@pytest.mark.parametrize(
    ("outputs", "named"),
    [
        ({"--out": "a/x", "--masks": None, "--probabilities": "./a/../a/x"}, "--out a/x and --probabilities"),
        ({"--out": "x", "--masks": "x"}, ""),
        ({"--out": "masks/x.csv", "--masks": "masks"}, "--out masks/x.csv and --masks masks overlap"),
        ({"--masks": "x.csv/masks", "--out": "x.csv"}, ""),
        ({"--out": "link/x", "--probabilities": "a/x"}, ""),
        ({"--out": "s3://bucket/a/x", "--masks": "S3://bucket/a/"}, ""),
        ({"--out": "file:///a%20b", "--masks": "/a b"}, ""),
    ],
)
def test_outputs_that_overlap_are_refused(
    outputs: dict[str, str | None], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ConfigError, match=f"{named}.*; give each its own place") as caught:
        check_apart(outputs)
    assert str(caught.value).count("overlap") == 1


def test_outputs_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_apart({"--out": "x.csv", "--masks": "x", "--probabilities": None})
    check_apart({"--out": "s3://bucket/x", "--masks": "s3://bucket/xy", "--probabilities": "x"})
    assert full_name("s3://bucket/x") == "s3://bucket/x"
    assert full_name("x") == str(tmp_path / "x")


def test_a_folder_is_put_into_a_store(any_store_uri: str, tmp_path: Path) -> None:
    (tmp_path / "from/deeper").mkdir(parents=True)
    (tmp_path / "from/a").write_bytes(b"1")
    (tmp_path / "from/deeper/b").write_bytes(b"2")
    put_folder(open_store(any_store_uri), tmp_path / "from")
    assert objects(any_store_uri) == {"a": b"1", "deeper/b": b"2"}


def test_of_a_folder_that_is_put_whole_nothing_is_left_if_a_file_is_refused(proxy: FaultProxy, tmp_path: Path) -> None:
    uri = f"s3://{BUCKET}/{uuid.uuid4()}"
    store = open_store(uri)
    store.put("other", b"another writer's")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"1")
    proxy.faults = [Fault("PUT", "/c", status=403, code="AccessDenied", times=FOREVER)]
    with pytest.raises(StorageError, match=f"{uri}/c: AccessDenied"):
        put_whole_folder(store, tmp_path)
    assert objects(uri) == {"other": b"another writer's"}
    proxy.faults += [Fault("DELETE", status=400, code="Teapot", times=FOREVER)]
    with pytest.raises(StorageError, match=f"{uri}/c: AccessDenied"):  # the first error is told
        put_whole_folder(store, tmp_path)
    proxy.faults = []
    put_whole_folder(store, tmp_path)
    assert objects(uri).keys() == {"a", "b", "c", "other"}


def test_the_right_to_write_is_enough(proxy: FaultProxy) -> None:
    uri = f"s3://{BUCKET}/{uuid.uuid4()}"
    proxy.faults = [
        Fault(method, status=403, code="AccessDenied", times=FOREVER) for method in ("DELETE", "GET", "HEAD")
    ]
    with output_file(f"{uri}/x") as draft:
        draft.path.write_bytes(b"1")
    with output_folder(f"{uri}/masks") as draft:
        draft.path.joinpath("a.png").write_bytes(b"2")
    proxy.faults = []
    assert {name: data for name, data in objects(uri).items() if TEMP_PREFIX not in name} == {
        "x": b"1",
        "masks/a.png": b"2",
    }


def test_a_probe_leaves_nothing(any_store_uri: str) -> None:
    probe_output(open_store(any_store_uri))
    assert not [name for name in objects(any_store_uri) if TEMP_PREFIX in name]


def test_a_refused_probe_is_not_named(tmp_path: Path, s3_server: str) -> None:
    (tmp_path / "file").touch()
    for uri in (str(tmp_path / "file"), "s3://no-such-bucket/x"):
        store = open_store(uri)
        for refused in (store.check_writable, partial(probe_output, store)):
            with pytest.raises(StorageError, match=f"^{uri}: ") as caught:
                refused()
            assert ".saltray-tmp" not in str(caught.value)
