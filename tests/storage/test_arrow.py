"""A store as a pyarrow file system, partly driven by Ray's own storage code."""

import gc
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.fs import FileSelector, FileType, LocalFileSystem, copy_files

from saltray.errors import StorageError
from saltray.storage.arrow import arrow_filesystem
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, Fault, FaultProxy


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.list()]


@pytest.mark.parametrize("storage_path", [".", "runs/r1"])
def test_rays_storage_context_works_on_a_store(storage_path: str, store: Store, tmp_path: Path) -> None:
    from ray import cloudpickle
    from ray.train import Checkpoint
    from ray.train.v2._internal.execution import storage as ray_storage

    filesystem = arrow_filesystem(store)
    context = ray_storage.StorageContext(storage_path, "fold-0", filesystem)
    start = "" if storage_path == "." else f"{storage_path}/"
    marker = f"{start}fold-0/.validate_storage_marker"
    assert keys(store) == [marker]

    local = tmp_path / "local"
    (local / "deep").mkdir(parents=True)
    (local / "state.pt").write_bytes(b"state")
    (local / "deep" / "more").write_bytes(b"")
    checkpoint = context.persist_current_checkpoint(Checkpoint.from_directory(local), "epoch-1")
    assert keys(store) == [marker, f"{start}fold-0/epoch-1/deep/more", f"{start}fold-0/epoch-1/state.pt"]
    assert checkpoint.path == f"{start}fold-0/epoch-1"
    assert not checkpoint.filesystem != context.storage_filesystem  # noqa: SIM202  (the operator that Ray uses)

    copy = Path(pickle.loads(cloudpickle.dumps(checkpoint)).to_directory(tmp_path / "copy"))
    assert (copy / "state.pt").read_bytes() == b"state"
    assert (copy / "deep" / "more").read_bytes() == b""

    checkpoint.set_metadata({"epoch": 1})
    assert checkpoint.get_metadata() == {"epoch": 1}
    snapshot = context.checkpoint_manager_snapshot_path
    for text in ("first", "second"):
        with filesystem.open_output_stream(snapshot) as file:
            file.write(text.encode())
    with filesystem.open_input_stream(snapshot) as file:
        assert file.read() == b"second"
    assert sorted(ray_storage._list_at_fs_path(filesystem, context.experiment_fs_path)) == sorted(
        [".validate_storage_marker", "checkpoint_manager_snapshot.json", "epoch-1"]
    )

    assert ray_storage._exists_at_fs_path(filesystem, checkpoint.path)
    ray_storage.delete_fs_path(filesystem, checkpoint.path)
    ray_storage.delete_fs_path(filesystem, snapshot)
    assert not ray_storage._exists_at_fs_path(filesystem, checkpoint.path)
    assert keys(store) == [marker]


def test_ray_reports_why_a_store_is_not_writable(proxy: FaultProxy) -> None:
    from ray.train.v2._internal.execution.storage import StorageContext

    proxy.faults = [Fault("PUT", status=403, code="AccessDenied", times=10)]
    with pytest.raises(StorageError, match="AccessDenied: access is denied; grant"):
        StorageContext(".", "fold-0", arrow_filesystem(open_store(f"s3://{BUCKET}/refused")))


def test_a_file_becomes_an_object_when_it_is_closed(store: Store) -> None:
    stream = arrow_filesystem(store).open_output_stream("a/b")
    stream.write(b"one")
    stream.flush()
    assert not store.exists("a/b")
    stream.write(b"two")
    assert stream.tell() == 6
    stream.close()
    stream.close()
    assert store.get("a/b") == b"onetwo"


def test_no_object_is_created_if_the_body_raised(store: Store) -> None:
    store.put("old", b"old")

    def write_half(name: str) -> None:
        with arrow_filesystem(store).open_output_stream(name) as file:
            file.write(b"half")
            raise KeyError

    for name in ("new", "old"):
        with pytest.raises(KeyError):
            write_half(name)
    assert keys(store) == ["old"]
    assert store.get("old") == b"old"


def test_an_exception_that_is_handled_elsewhere_does_not_prevent_an_object(store: Store) -> None:
    try:
        raise KeyError
    except KeyError:
        with arrow_filesystem(store).open_output_stream("a") as file:
            try:
                raise ValueError
            except ValueError:
                file.write(b"whole")
    assert store.get("a") == b"whole"


def test_no_object_is_created_if_the_file_is_never_closed(store: Store) -> None:
    stream = arrow_filesystem(store).open_output_stream("a")
    stream.write(b"half")
    del stream
    gc.collect()
    assert keys(store) == []


def test_a_failed_upload_raises_on_closing_and_creates_no_object(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/failed-upload")
    store.deadline_s = 0.1
    proxy.faults = [Fault("PUT", status=503, times=10**6)]
    stream = arrow_filesystem(store).open_output_stream("snapshot")
    stream.write(b"state")
    with pytest.raises(StorageError, match="gave up"):
        stream.close()
    assert keys(store) == []


def test_a_copy_from_a_failing_source_creates_no_object(store: Store, tmp_path: Path) -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            raise OSError("the disk failed")

    with pytest.raises(OSError, match="failed"), arrow_filesystem(store).open_output_stream("a") as out:
        out.upload(Failing())
    assert keys(store) == []


def test_a_file_system_pickles_to_its_uri(store: Store) -> None:
    from ray import cloudpickle

    store.put("a", b"1")  # creates the client; on S3, its credentials contain "secret"
    filesystem = arrow_filesystem(store)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        frozen = dumps(filesystem)
        assert b"secret" not in frozen
        assert pickle.loads(frozen) == filesystem
        with pickle.loads(frozen).open_input_file("a") as file:
            assert file.read() == b"1"
    assert filesystem == arrow_filesystem(open_store(store.uri))
    assert filesystem != arrow_filesystem(store.sub("a"))
    assert filesystem != LocalFileSystem()
    assert filesystem.type_name == "py::saltray"


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("base", ["", "a", "a/b"])
def test_listings_are_those_of_a_local_folder(base: str, recursive: bool, store: Store, tmp_path: Path) -> None:
    for key in ("a/b/c/d", "a/b/e", "a/f", "a-b/g", "h"):
        path = tmp_path / "tree" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
        store.put(key, key.encode())

    def seen(filesystem: Any, root: str) -> set[tuple[str, FileType, int | None]]:
        infos = filesystem.get_file_info(FileSelector(root, recursive=recursive))
        return {(info.path.removeprefix(root).lstrip("/"), info.type, info.size) for info in infos}

    here = seen(arrow_filesystem(store), base)
    assert here == seen(LocalFileSystem(), f"{tmp_path}/tree/{base}".rstrip("/"))
    assert here


def test_paths_are_looked_up(store: Store) -> None:
    filesystem = arrow_filesystem(store)
    store.put("a/b", b"123")
    found = filesystem.get_file_info(["a/b", "/a/b", "./a//b", "a", "", "absent"])
    assert [info.type.name for info in found] == ["File", "File", "File", "Directory", "Directory", "NotFound"]
    assert found[0].size == 3
    assert filesystem.normalize_path("/a/./b/") == "a/b"
    with pytest.raises(StorageError, match="is not an object key"):
        filesystem.get_file_info("a/../b")


def test_missing_paths_raise_file_not_found(store: Store) -> None:
    filesystem = arrow_filesystem(store)
    assert filesystem.get_file_info(FileSelector("absent", allow_not_found=True)) == []
    for call in (
        lambda: filesystem.open_input_file("absent"),
        lambda: filesystem.open_input_stream("absent"),
        lambda: filesystem.delete_file("absent"),
        lambda: filesystem.delete_dir_contents("absent"),
        lambda: filesystem.get_file_info(FileSelector("absent")),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    filesystem.delete_dir_contents("absent", missing_dir_ok=True)


def test_folders_can_be_deleted_but_not_the_whole_store(store: Store) -> None:
    filesystem = arrow_filesystem(store)
    for key in ("a/b", "a/c/d", "e"):
        store.put(key, b"")
    filesystem.create_dir("f/g")
    filesystem.delete_dir_contents("a")
    assert keys(store) == ["e"]
    with pytest.raises(NotImplementedError):
        filesystem.delete_dir_contents("/", accept_root_dir=True)
    with pytest.raises(StorageError):
        filesystem.delete_dir("/")
    filesystem.delete_file("e")
    assert keys(store) == []


def test_operations_that_are_not_atomic_are_unsupported(store: Store) -> None:
    filesystem = arrow_filesystem(store)
    store.put("a", b"1")
    for call in (
        lambda: filesystem.move("a", "b"),
        lambda: filesystem.copy_file("a", "b"),
        lambda: filesystem.open_append_stream("a"),
    ):
        with pytest.raises(NotImplementedError, match="is unsupported"):
            call()
    assert keys(store) == ["a"]


def test_a_large_object_is_streamed(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * (5 << 12)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(data)
    filesystem = arrow_filesystem(store)
    copy_files(str(tmp_path / "tree"), "folder", destination_filesystem=filesystem)
    shutil.rmtree(tmp_path / "tree")
    with filesystem.open_input_file("folder/big") as file:
        assert isinstance(file, pa.NativeFile)
        file.seek(1000)
        assert file.read(24) == data[1000:1024]
        assert file.size() == len(data)
