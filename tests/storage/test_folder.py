"""What only a folder has: errors of the disk and the file system, and other processes."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltray.errors import ConfigError, NotFoundError, StorageError
from saltray.storage.files import TEMP_PREFIX
from saltray.storage.uri import open_store

from .store_calls import store_calls


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may exceed 64 KiB: a larger write fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Run as a user to whom file permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_failed_write_leaves_the_old_object_and_no_temporary_file(
    root: Path, tmp_path: Path, small_disk: None
) -> None:
    store = open_store(str(root))
    store.put("a", b"old")
    big = b"x" * (1 << 17)
    for call in (lambda: store.put("a", big), lambda: store.put("b", big), lambda: store.put_new("c", big)):
        with pytest.raises(StorageError, match="File too large"):
            call()
    assert names(root) == ["a"]
    assert store.get("a") == b"old"


def test_a_failed_copy_leaves_no_file(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = open_store(str(root))
    source = tmp_path / "big"
    source.write_bytes(b"x" * (1 << 17))
    store.put_file("big", source)
    request.getfixturevalue("small_disk")
    with pytest.raises(StorageError, match="File too large"):
        store.put_file("copy", source)
    # The folder that is full is the one of the copy.
    with pytest.raises(StorageError, match=rf"File too large \({tmp_path}/{TEMP_PREFIX}"):
        store.get_file("big", tmp_path / "copy")
    assert names(root) == ["big"]
    assert names(tmp_path) == ["big", "store"]


def test_a_folder_without_access_is_refused(root: Path, unprivileged: None) -> None:
    store = open_store("/root/saltray-store" if os.geteuid() != os.getuid() else "/saltray-store")
    with pytest.raises(StorageError, match="give this user access to it, or choose another folder") as caught:
        store.check_writable()
    assert "\n" not in str(caught.value)


def test_an_object_cannot_be_a_folder_too(root: Path) -> None:
    store = open_store(str(root))
    store.put("a", b"1")
    store.put("b/c", b"1")
    with pytest.raises(StorageError, match="a file exists where a folder is needed"):
        store.put("a/x", b"1")
    with pytest.raises(StorageError, match="a folder exists where a file is needed"):
        store.put("b", b"1")
    assert [entry.key for entry in store.list()] == ["a", "b/c"]
    assert names(root) == ["a", "b"]


def test_a_killed_writer_leaves_no_object(root: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = (
        "import sys; from pathlib import Path; from saltray.storage.uri import open_store; "
        "open_store(sys.argv[1]).put_file('a/file', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(root), str(pipe)]
    with (
        subprocess.Popen(command) as writer,
        pipe.open("wb", buffering=0) as feed,
    ):  # returns when the writer opens it for reading
        for _ in range(40):
            feed.write(b"x" * (1 << 16))  # more than a pipe and a chunk hold: part of it is in the folder
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert [name.startswith(TEMP_PREFIX) for name in names(root / "a")] == [True]
    store = open_store(str(root))
    assert list(store.list()) == []
    assert store.folders() == []
    assert not store.exists("a/file")


def test_a_stale_mount_is_retried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(root))
    store.put("a", b"1")
    failures = [errno.ESTALE, errno.EBUSY]
    scandir = os.scandir

    def stale(path: Path) -> object:
        if failures:
            raise OSError(failures.pop(), "simulated")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", stale)
    assert [entry.key for entry in store.list()] == ["a"]


def test_only_objects_are_listed(root: Path) -> None:
    store = open_store(str(root))
    store.put("a/object", b"1")
    (root / "empty").mkdir()
    os.mkfifo(root / "a" / "pipe")
    (root / "linked").symlink_to("a")
    assert [entry.key for entry in store.list()] == ["a/object", "linked/object"]
    assert store.folders() == ["a", "linked"]
    assert not store.exists("a/pipe")


@pytest.mark.parametrize(
    "function",
    ["os.fsync", "os.link", "os.scandir", "os.mkdir", "os.unlink", "os.stat", "os.replace", "io.open"],
)
def test_whatever_error_the_system_gives_is_one_line(
    function: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(root))
    store.put("a", b"1")
    store.deadline_s = 0
    calls = store_calls(store, tmp_path).values()
    told: dict[int, list[str]] = {}
    tried = {errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, *sorted(errno.errorcode)[::6]}
    for number in tried:
        for call in calls:
            with monkeypatch.context() as patch:
                patch.setattr(function, lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number))))  # noqa: B023
                try:
                    call()
                except StorageError as error:
                    told.setdefault(number, []).append(str(error))
    lines = [line for each in told.values() for line in each]
    assert all(line.startswith(str(root)) and "\n" not in line for line in lines)
    # The others say that something exists, or does not, which may be what was wanted.
    usual = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
    without_links = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK} if function == "os.link" else set()
    assert tried - told.keys() <= usual | without_links


def test_a_current_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="store 'store': the current folder was deleted"):
        open_store("store")
    assert open_store(str(tmp_path)).folders() == []


def test_what_nfs_keeps_of_deleted_files_is_no_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(root))
    store.put("a/object", b"1")
    (root / "a" / ".nfs000000000001").write_bytes(b"still open somewhere")
    assert [entry.key for entry in store.list()] == ["a/object"]
    unlink = os.unlink

    def busy(path: str, **where: int) -> None:
        if str(path).startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        unlink(path, **where)

    monkeypatch.setattr(os, "unlink", busy)
    store.delete_prefix("a")
    assert store.folders() == []
    assert names(root / "a") == [".nfs000000000001"]


def test_a_link_that_leads_nowhere_is_listed_so_that_it_is_missed(root: Path) -> None:
    store = open_store(str(root))
    store.put("a/object", b"1")
    (root / "a" / "dangling").symlink_to("nowhere")
    (root / "a" / "loop").symlink_to("loop")
    assert [entry.key for entry in store.list()] == ["a/dangling", "a/loop", "a/object"]
    assert not store.exists("a/dangling")
    with pytest.raises(NotFoundError, match="a/dangling: there is no such object"):
        store.get("a/dangling")
    with pytest.raises(StorageError, match="a/loop: Too many levels of symbolic links"):
        store.get("a/loop")


def test_links_to_folders_around_them_are_not_followed(root: Path) -> None:
    store = open_store(str(root))
    store.put("a/b/object", b"1")
    for name, target in {"x": ".", "y": ".", "a/up": "..", "a/same": "../a", "a/b/up": "../..", "c": "a"}.items():
        (root / name).symlink_to(target)
    assert [entry.key for entry in store.list()] == ["a/b/object", "c/b/object"]
    assert store.folders() == ["a", "c"]
    # Seen from below, what is above is not around the link; it ends all the same.
    assert [entry.key for entry in store.sub("a/b").list()] == ["object", "up/a/b/object", "up/c/b/object"]
    (root / "a/d").mkdir()
    (root / "a/d/e").symlink_to("../b")
    (root / "a/b/f").symlink_to("../d")
    assert [entry.key for entry in store.list("a")] == ["a/b/object", "a/d/e/object"]


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(root: Path, tmp_path: Path) -> None:
    store = open_store(str(root))
    store.put("a/object", b"1")
    os.mkfifo(root / "a/pipe")
    (root / "a/null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        for read in (store.get, lambda key: store.get_file(key, tmp_path / "copy")):
            with pytest.raises(StorageError, match=f"^{root}/a/{name}: it is a device or a pipe; put a file in its"):
                read(f"a/{name}")
    assert names(tmp_path) == ["store"]
    with pytest.raises(NotFoundError):
        store.get("a")


def test_permissions_of_objects_follow_the_umask(root: Path) -> None:
    before = os.umask(0o022)
    try:
        open_store(str(root)).put("a", b"1")
        open_store(str(root)).put_new("b", b"1")
    finally:
        os.umask(before)
    assert [oct((root / name).stat().st_mode & 0o777) for name in "ab"] == ["0o644", "0o644"]
