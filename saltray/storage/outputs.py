"""Files and folders that a command writes for its user, on this machine or in S3: whole, or not at all.

They are written under a temporary name. What cannot be written there is refused when the block begins, before the work.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from saltray.errors import ConfigError, StorageError
from saltray.storage.base import Store, unnamed
from saltray.storage.files import TEMP_PREFIX, explain_os_error, no_scratch, scratch_folder, sync
from saltray.storage.uri import open_object, open_store

UPLOADS = 16
"""Files of a folder that are uploaded at once."""


@dataclass(frozen=True)
class Draft:
    """An output that is being written."""

    uri: str
    """Where it will be, as the user named it."""
    path: Path
    """The temporary file or folder to write."""
    is_remote: bool = False
    """Whether it is written among this machine's temporary files and uploaded at the end."""

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """For the body that writes to `path`: its OSErrors are told as those of this output.

        Raises:
            StorageError: the disk is full, or another reason.
        """
        try:
            yield self.path
        except OSError as error:
            if self.is_remote:
                raise StorageError(f"cannot write {self.uri}: {no_scratch(error)}") from error
            raise explain_os_error(f"cannot write {self.uri}", error) from error


@contextmanager
def output_file(uri: str | os.PathLike[str]) -> Iterator[Draft]:
    """A file to write in the block. At its end it replaces the one at `uri`; if the block raises, nothing is left.

    Args:
        uri: a path, file:///path or s3://bucket/key.

    Raises:
        ConfigError: the URI is unsupported, or what is there is not a file.
        StorageError: it cannot be written.
    """
    uri = os.fspath(uri)
    store, key = open_object(uri)
    if store.is_remote:
        probe_output(store)
        with scratch_folder() as folder:
            draft = Draft(uri, folder / "file", is_remote=True)
            with draft.writing():
                draft.path.touch()
            yield draft
            store.put_file(key, draft.path)
        return
    # Not beside a link, which would be replaced by the file.
    target = Path(os.path.realpath(Path(store.uri, key)))
    draft = Draft(uri, target.with_name(f"{TEMP_PREFIX}{uuid.uuid4().hex}"))
    with draft.writing():
        if target.is_dir():
            raise ConfigError(f"cannot write {uri}: it is a folder; name a file in it")
        if target.exists() and not target.is_file():  # /dev/null would be replaced by a file
            raise ConfigError(f"cannot write {uri}: it is a device or a pipe; name a file")
    with _created(draft, target.parent):
        with draft.writing():
            draft.path.touch(exist_ok=False)
        yield draft
        with draft.writing():
            with draft.path.open("rb") as file:
                sync(file)
            draft.path.replace(target)


@contextmanager
def output_folder(uri: str | os.PathLike[str]) -> Iterator[Draft]:
    """A folder to write files into in the block, without sub-folders. At its end they are added to the one at `uri`.

    Files of the same names are replaced. If the block raises, or a folder has the name of one of the files, none is
    added. They are added one by one, so some may be there if the store or the disk fails at the end.

    Args:
        uri: a path, file:///path or s3://bucket/prefix.

    Raises:
        ConfigError: the URI is unsupported.
        StorageError: it cannot be written.
    """
    uri = os.fspath(uri)
    store = open_store(uri)
    if store.is_remote:
        probe_output(store)
        with scratch_folder() as folder:
            yield Draft(uri, folder, is_remote=True)
            put_folder(store, folder)
        return
    # Within the folder, which may be a file system of its own.
    target = Path(os.path.realpath(store.uri))
    draft = Draft(uri, target / f"{TEMP_PREFIX}{uuid.uuid4().hex}")
    with _created(draft, target):
        with draft.writing():
            draft.path.mkdir()
        yield draft
        with draft.writing():
            moves = {path: target / path.name for path in sorted(draft.path.iterdir())}
            for place in moves.values():
                if place.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
            for path, place in moves.items():
                path.replace(place)


def put_folder(store: Store, folder: Path) -> None:
    """Put all files below a folder, which are small, into a store, by their names relative to it.

    Raises:
        StorageError: a file cannot be written; others may have been.
    """
    _put_each(store, folder, [])


def put_whole_folder(store: Store, folder: Path) -> None:
    """`put_folder`; if a file cannot be written, those that were are deleted again.

    Raises:
        StorageError: a file cannot be written.
    """
    begun: list[str] = []
    try:
        _put_each(store, folder, begun)
    except BaseException:
        with suppress(StorageError):  # the store may be down; the first error is the one to tell
            for key in begun:
                store.delete(key)
        raise


def _put_each(store: Store, folder: Path, begun: list[str]) -> None:
    """Put all files below a folder; `begun` are the keys that may have been written."""

    def put(key: str) -> None:
        begun.append(key)
        store.put(key, (folder / key).read_bytes())

    keys = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    pool = ThreadPoolExecutor(UPLOADS)
    try:
        for _ in pool.map(put, keys):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def probe_output(store: Store) -> None:
    """Write a small object, and delete it where that is allowed: an output needs the right to write alone.

    Raises:
        StorageError: writing is refused.
    """
    probe = f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    with unnamed(probe):
        store.put(probe, b"saltray may write here\n")
    with suppress(StorageError):
        store.delete(probe)


def check_apart(outputs: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """Refuse outputs of which one is, or is within, another.

    Args:
        outputs: what each is called -> where it goes, None where it is not written.

    Raises:
        ConfigError: two overlap, or a URI is unsupported.
    """
    names = {what: full_name(uri) for what, uri in outputs.items() if uri is not None}
    for (what, name), (other, outer) in permutations(names.items(), 2):
        if name == outer or name.startswith(f"{outer}/"):
            raise ConfigError(f"{what} {outputs[what]} and {other} {outputs[other]} overlap; give each its own place")


def full_name(uri: str | os.PathLike[str]) -> str:
    """The same text for every way to name the same file or folder.

    Raises:
        ConfigError: the URI is unsupported.
    """
    store = open_store(os.fspath(uri))
    return store.uri if store.is_remote else os.path.realpath(store.uri)


@contextmanager
def _created(draft: Draft, folder: Path) -> Iterator[None]:
    """Create a folder for a draft; afterwards, the draft is gone, and so is the folder if the block raised."""
    with draft.writing():
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with draft.writing():
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        _remove(draft.path)
        for each in missing:
            with suppress(OSError):  # another process has put something there
                each.rmdir()
        raise
    else:
        _remove(draft.path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
