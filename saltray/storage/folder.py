"""A folder as an object store: on a local disk, or on a network mount that all nodes share."""

import builtins
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from saltray.errors import ConfigError, StorageError
from saltray.storage.base import Entry, Opened, Store
from saltray.storage.create import create_from
from saltray.storage.files import TEMP_PREFIX, read_chunks, sync, temporary_file
from saltray.storage.keys import check_key, is_key

# Temporary errors of a network mount. ENOTEMPTY: other processes write to a folder while it is deleted.
_TRANSIENT = {
    errno.ESTALE,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOTEMPTY,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOTCONN,
}
_SILLY_RENAME = ".nfs"
"""Start of the names that NFS gives to deleted files which a process still has open."""
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderStore(Store):
    """Objects are files below a folder. Each is written under a temporary name, then renamed or linked to its own."""

    def __init__(self, folder: str) -> None:
        try:
            # Symbolic links are not resolved: they may differ between nodes.
            path = os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111
        except OSError as error:
            raise ConfigError(f"store {folder!r}: the current folder was deleted; change to another one") from error
        super().__init__(path)
        self._folder = Path(self.uri)

    def __reduce__(self) -> tuple[type["FolderStore"], tuple[str]]:
        return FolderStore, (self.uri,)

    def sub(self, prefix: str) -> "FolderStore":
        return FolderStore(str(self._path(prefix)))

    def put(self, key: str, data: bytes) -> None:
        def write() -> None:
            with self._temporary(key) as (file, path):
                file.write(data)
                sync(file)
                Path(file.name).replace(path)

        self._attempt(key, write)

    def put_new(self, key: str, data: bytes) -> bool:
        def create() -> bool:
            with self._temporary(key) as (file, path):
                file.write(data)
                sync(file)
                return create_from(Path(file.name), path)

        return self._attempt(key, create)

    def put_file(self, key: str, path: Path) -> str:
        def copy() -> str:
            digest = hashlib.sha256()
            with path.open("rb") as source, self._temporary(key) as (file, target):
                for chunk in read_chunks(source):
                    digest.update(chunk)
                    file.write(chunk)
                sync(file)
                Path(file.name).replace(target)
            return digest.hexdigest()

        return self._attempt(key, copy)

    def entry(self, key: str) -> Entry:
        def read() -> Entry:
            try:
                status = self._path(key).stat()
            except _ABSENT:
                raise self._not_found(key) from None
            if not stat.S_ISREG(status.st_mode):
                raise self._not_found(key)
            return _entry(key, status)

        return self._attempt(key, read)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._walk(f"{check_key(prefix)}/" if prefix else "")

    def folders(self, prefix: str = "") -> builtins.list[str]:
        start = f"{check_key(prefix)}/" if prefix else ""
        names = [name for name, status in self._scan(start) if stat.S_ISDIR(status.st_mode) and is_key(name)]
        return sorted(name for name in names if next(self._walk(f"{start}{name}/"), None))

    def names(self) -> builtins.list[str]:
        return sorted(name for name, _ in self._scan("") if is_key(name))

    def delete(self, key: str) -> None:
        def remove() -> None:
            with suppress(*_ABSENT):
                self._path(key).unlink()

        self._attempt(key, remove)

    def delete_prefix(self, prefix: str) -> None:
        path = self._path(prefix)

        def remove() -> None:
            with suppress(FileNotFoundError, NotADirectoryError):
                try:
                    shutil.rmtree(path)
                except OSError:
                    if _holds_files(path):
                        raise
                    return
            if path.is_dir():
                raise OSError(errno.ENOTEMPTY, "other processes write to it while it is deleted", str(path))

        self._attempt(prefix, remove)

    def _open(self, key: str) -> Opened:
        try:
            file = open(self._path(key), "rb", opener=_at_once)  # noqa: SIM115  (closed in read_chunks)
        except _ABSENT:
            raise self._not_found(key) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise StorageError(f"{self._where(key)}: it is a device or a pipe; put a file in its place, or delete it")
        return Opened(read_chunks(file), None)

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno in _TRANSIENT

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    @contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[BinaryIO, Path]]:
        """A temporary file in the object's folder, and the object's path."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path.parent) as file:
            yield file, path

    def _walk(self, start: str) -> Iterator[Entry]:
        """All objects whose key begins with `start`, which is empty or ends with '/', in key order."""
        for name, status in self._scan(start):
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(f"{start}{name}/")
            else:
                yield _entry(f"{start}{name}", status)

    def _scan(self, start: str) -> builtins.list[tuple[str, os.stat_result]]:
        """Files and folders directly below `start`. A folder sorts by its name and '/', as its objects do."""

        def scan() -> builtins.list[tuple[str, os.stat_result]]:
            found = []
            folder = self._folder / start
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as items:
                for item in items:
                    with suppress(FileNotFoundError):  # deleted since the scan began
                        status = _status(item)
                        if not (item.is_symlink() and self._leads_back(status, folder)):
                            found.append((item.name, status))
            return sorted(found, key=_sort_key)

        return [(name, status) for name, status in self._attempt(start, scan) if _is_listed(name, status)]

    def _leads_back(self, status: os.stat_result, folder: Path) -> bool:
        """Whether a link in `folder` leads to it or to a folder of this store around it: then it would never end."""
        around = (folder, *folder.parents)
        ours = around[: around.index(self._folder) + 1]
        return any(os.path.samestat(status, each.stat()) for each in ours)


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe, too, without waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _entry(key: str, status: os.stat_result) -> Entry:
    return Entry(key, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _status(item: "os.DirEntry[str]") -> os.stat_result:
    """Of the file that an entry links to; of the link itself if it leads nowhere, so that reading it tells that."""
    try:
        return item.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return item.stat(follow_symlinks=False)


def _sort_key(item: tuple[str, os.stat_result]) -> str:
    name, status = item
    return f"{name}/" if stat.S_ISDIR(status.st_mode) else name


def _is_listed(name: str, status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return True
    kept = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
    return kept and not name.startswith((TEMP_PREFIX, _SILLY_RENAME))


def _holds_files(path: Path) -> bool:
    """Whether any file is below `path` that is not deleted yet."""
    names = (name for _, _, files in os.walk(path) for name in files)
    return not all(name.startswith(_SILLY_RENAME) for name in names)
