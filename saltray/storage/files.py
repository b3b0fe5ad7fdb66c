"""Files on this machine: temporary ones that never stay, digests, and what an OSError means to the user."""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from saltray.errors import StorageError
from saltray.storage.retry import one_line

CHUNK_BYTES = 1 << 20
TEMP_PREFIX = ".saltray-tmp-"
"""Objects whose name starts so are never listed: they are being written, or their writer was killed."""

_REMEDIES = {
    errno.EACCES: "give this user access to it, or choose another folder",
    errno.EPERM: "give this user access to it, or choose another folder",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EDQUOT: "free some of the quota there, or choose another folder",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away, or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; move it away, or choose another folder",
    errno.EISDIR: "a folder stands where a file is needed; move it away, or choose another name",
    errno.ENOENT: "check the path",
    errno.EIO: "check the disk or the network mount",
}


def explain_os_error(where: str, error: OSError) -> StorageError:
    """The same error for the user: the object, the file at fault and the remedy, on one line."""
    fault = error.strerror or one_line(error)
    path = f" ({error.filename})" if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0, "check that the folder can be read and written from here")
    return StorageError(f"{where}: {fault}{path}; {remedy}")


@contextmanager
def temporary_file(folder: Path) -> Iterator[BinaryIO]:
    """A new file in `folder`, open for writing, that is gone when the body ends, unless the body renamed it."""
    path = folder / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        with path.open("xb") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Return once the bytes written are on the disk; only now may the file be renamed into its place."""
    file.flush()
    os.fsync(file.fileno())


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of an open file, a chunk at a time; closes it."""
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
