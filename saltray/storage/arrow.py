"""A store as a pyarrow file system, so that Ray's own files pass through `Store` too.

pyarrow's S3 client publishes a truncated object if the body of a `with` raises, stops retrying after two seconds and
pickles its secret in clear text. This file system does not. Paths are keys of the store; '', '.' and '/' are its root.
Do not upload with `pyarrow.fs.copy_files`, which ignores errors on closing a file. Use `Store.put_file`.
"""

import sys
import tempfile
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from saltray.errors import NotFoundError
from saltray.storage.base import Store
from saltray.storage.files import no_scratch, scratch_folder


def arrow_filesystem(store: Store) -> PyFileSystem:
    """The file system of a store. It pickles to the store's URI; file systems of equal stores are equal."""
    return PyFileSystem(StoreHandler(store))


class StoreHandler(FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """A folder exists if it contains an object. Move, copy and append, which are not atomic on S3, are unsupported."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return self.store == other.store if isinstance(other, StoreHandler) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.store)

    def get_type_name(self) -> str:
        return "saltray"

    def normalize_path(self, path: str) -> str:
        return _key(path)

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = _key(selector.base_dir)
        depth = sys.maxsize if selector.recursive else 1
        # pyarrow expects paths that start with `base_dir` exactly as given.
        start = f"{selector.base_dir.rstrip('/')}/" if base else ""
        found: dict[str, FileInfo] = {}
        for entry in self.store.list(base):
            parts = PurePosixPath(entry.key).relative_to(base).parts
            for level in range(1, min(depth, len(parts) - 1) + 1):
                folder = start + "/".join(parts[:level])
                found[folder] = FileInfo(folder, FileType.Directory)
            if len(parts) <= depth:
                path = start + "/".join(parts)
                found[path] = FileInfo(path, FileType.File, size=entry.size)
        if not found and base and not selector.allow_not_found:
            raise FileNotFoundError(f"{self.store!r} contains no object below {selector.base_dir!r}")
        return list(found.values())

    def create_dir(self, path: str, recursive: bool) -> None:  # noqa: ARG002
        """Nothing to do: a folder exists once it contains an object."""
        _key(path)

    def delete_dir(self, path: str) -> None:
        self.store.delete_prefix(_key(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        if not missing_dir_ok and self._info(path).type != FileType.Directory:
            raise FileNotFoundError(path)
        self.store.delete_prefix(_key(path))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("deleting all objects of a store is unsupported; delete its folders by name")

    def delete_file(self, path: str) -> None:
        if not self.store.exists(_key(path)):
            raise FileNotFoundError(path)
        self.store.delete(_key(path))

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError(f"moving {src!r} to {dest!r} is unsupported; write {dest!r} and delete {src!r}")

    def copy_file(self, src: str, dest: str) -> None:
        raise NotImplementedError(f"copying {src!r} to {dest!r} is unsupported; write {dest!r} instead")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """A copy on this machine, which is deleted when it is closed."""
        with scratch_folder() as folder:
            copy = folder / "object"
            try:
                self.store.get_file(_key(path), copy)
            except NotFoundError as error:
                raise FileNotFoundError(str(error)) from error
            return pa.OSFile(str(copy), "rb")

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:  # noqa: ARG002
        return pa.PythonFile(_Upload(self.store, _key(path)), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:
        raise NotImplementedError(f"appending to {path!r} is unsupported; write the whole object instead")

    def _info(self, path: str) -> FileInfo:
        key = _key(path)
        if not key:
            return FileInfo(path, FileType.Directory)
        try:
            return FileInfo(path, FileType.File, size=self.store.entry(key).size)
        except NotFoundError:
            is_folder = next(self.store.list(key), None) is not None
            return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)


class _Upload:
    """A file that becomes an object when it is closed, unless the body of the `with` raised.

    pyarrow closes a file in both cases, so `close` looks at the exception that is being handled.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.closed = False
        self._store = store
        self._key = key
        self._exception_before = sys.exception()
        try:
            self._file = tempfile.NamedTemporaryFile(prefix="saltray-")  # noqa: SIM115  (closed in close)
        except OSError as error:
            raise no_scratch(error) from error

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            raise no_scratch(error) from error

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with self._file as file:
            if sys.exception() is self._exception_before:
                file.flush()
                self._store.put_file(self._key, Path(file.name))


def _key(path: str) -> str:
    """The key of a path; empty for the root."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))
