"""Files and folders that a command writes for its user, on this machine or in S3: whole, or not at all.

They are written under a temporary name. What cannot be written there is refused when the block begins, before the work.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from saltray.errors import ConfigError
from saltray.storage.base import Store
from saltray.storage.files import TEMP_PREFIX, explain_os_error, sync
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

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """For the body that writes to `path`: its OSErrors are told as those of this output.

        Raises:
            StorageError: the disk is full, or another reason.
        """
        try:
            yield self.path
        except OSError as error:
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
    if _is_remote(store):
        check_writable(store)
        with _temporary_folder(uri) as folder:
            draft = Draft(uri, folder / "file")
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

    Files of the same names are replaced. If the block raises, nothing is left.

    Args:
        uri: a path, file:///path or s3://bucket/prefix.

    Raises:
        ConfigError: the URI is unsupported.
        StorageError: it cannot be written.
    """
    uri = os.fspath(uri)
    store = open_store(uri)
    if _is_remote(store):
        check_writable(store)
        with _temporary_folder(uri) as folder:
            yield Draft(uri, folder)
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
            for path in sorted(draft.path.iterdir()):
                path.replace(target / path.name)


def put_folder(store: Store, folder: Path) -> None:
    """Put all files below a folder, which are small, into a store, by their names relative to it.

    Raises:
        StorageError: a file cannot be written; others may have been.
    """
    keys = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    pool = ThreadPoolExecutor(UPLOADS)
    try:
        for _ in pool.map(lambda key: store.put(key, (folder / key).read_bytes()), keys):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def check_writable(store: Store) -> None:
    """Write and delete a small object. `Store.check_writable` asks for more rights than an output needs.

    Raises:
        StorageError: that is refused.
    """
    probe = f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    store.put(probe, b"saltray may write here\n")
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
    return store.uri if _is_remote(store) else os.path.realpath(store.uri)


def _is_remote(store: Store) -> bool:
    return store.uri.startswith("s3://")


@contextmanager
def _temporary_folder(uri: str) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="saltray-"))
    except OSError as error:
        raise explain_os_error(f"cannot write {uri}: no temporary folder (TMPDIR)", error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
