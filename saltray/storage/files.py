"""Files on this machine: temporary files, digests, and messages for OSErrors."""

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from saltray.errors import StorageError, one_line

CHUNK_BYTES = 1 << 20
TEMP_PREFIX = ".saltray-tmp-"
"""Start of the names that a listing omits: objects still being written, or left by a process that was killed."""

_REMEDIES = {
    errno.EACCES: "give this user access to it, or choose another folder",
    errno.EPERM: "give this user access to it, or choose another folder",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EDQUOT: "free some of the quota there, or choose another folder",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ENOTDIR: "a file exists where a folder is needed; move it, or choose another folder",
    errno.EEXIST: "a file exists where a folder is needed; move it, or choose another folder",
    errno.EISDIR: "a folder exists where a file is needed; move it, or choose another name",
    errno.ENOENT: "check the path",
    errno.EIO: "check the disk or the network mount",
}


def explain_os_error(where: str, error: OSError) -> StorageError:
    """The error as a message for the user: the object, what happened, the file and the remedy, on one line."""
    fault = error.strerror or one_line(error)
    path = f" ({error.filename})" if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0, "check that this process can read and write the folder")
    return StorageError(f"{where}: {fault}{path}; {remedy}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files of this machine, which is deleted at the end.

    Raises:
        StorageError: nothing can be written there, because the disk is full for instance.
    """
    folder = make_scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_scratch_folder() -> Path:
    """The same for a caller who deletes it."""
    try:
        return Path(tempfile.mkdtemp(prefix="saltray-"))
    except OSError as error:
        raise no_scratch(error) from error


def no_scratch(error: Exception) -> StorageError:
    """What to tell where temporary files cannot be written, whatever library met the error."""
    fault = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
    try:
        folder = tempfile.gettempdir()
    except OSError:  # no folder takes even an empty file
        folder = os.environ.get("TMPDIR", "/tmp")
    remedy = "free some space there, or set TMPDIR to another folder"
    return StorageError(f"temporary files cannot be written to {folder}: {fault}; {remedy}")


@contextmanager
def temporary_file(folder: Path) -> Iterator[BinaryIO]:
    """A new file in `folder`, open for writing, which is deleted at the end unless the body synced and renamed it."""
    path = folder / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    file = path.open("xb")
    try:
        yield file
    finally:
        with suppress(OSError):  # nothing is left to write, or the error of writing it is on its way
            file.close()
        path.unlink(missing_ok=True)


def write_here(file: BinaryIO, data: bytes) -> None:
    """Write to a file of this machine, and name it if that fails: else a full disk is taken for a full store."""
    with _named(file):
        file.write(data)


def sync(file: BinaryIO) -> None:
    """Return when all bytes written are on the disk. Only then may the file be renamed to its final name."""
    with _named(file):
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _named(file: BinaryIO) -> Iterator[None]:
    """Name the file in an OSError of its body."""
    try:
        yield
    except OSError as error:
        error.filename = file.name
        raise


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of an open file in chunks. Closes the file."""
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
