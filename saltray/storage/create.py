"""Creating a file under a name that must not exist yet, from a complete temporary file beside it.

A hard link does that in one step. Without hard links (SMB, FAT, gcsfuse, Google Drive) a second file, the claim, says
who may rename its temporary file to the name: of several processes, exactly one creates the claim.
"""

import errno
import functools
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path

from saltray.storage.files import TEMP_PREFIX

STALE_CLAIM_S = 30.0
"""A claim is held for milliseconds; one of this age is of a process that died."""
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

log = logging.getLogger("saltray")


def create_from(temporary: Path, path: Path) -> bool:
    """Give a complete temporary file of the same folder its name. Returns False if `path` existed.

    Raises:
        OSError: EAGAIN while another process creates the same file without hard links; try again.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        # After a lost reply, NFS repeats a request that has succeeded; then `path` is our own file.
        with suppress(FileNotFoundError):
            return temporary.samefile(path)
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _tell_once()
        return _rename_new(temporary, path)
    return True


@functools.cache
def _tell_once() -> None:
    log.warning("the store's file system has no hard links; new objects are claimed by exclusive creation instead")


def _rename_new(temporary: Path, path: Path) -> bool:
    """Rename unless `path` exists. Whoever holds the claim is alone between the question and the renaming."""
    claim = path.with_name(f"{TEMP_PREFIX}claim-{path.name}")
    token = uuid.uuid4().hex
    try:
        with claim.open("x") as file:
            file.write(token)
    except FileExistsError:
        if path.exists():
            return False
        _remove_stale(claim, temporary)
        raise BlockingIOError(errno.EAGAIN, "another process is creating this file", str(path)) from None
    try:
        if path.exists():
            return False
        if claim.read_text() != token:  # taken for stale while this process was stopped
            raise BlockingIOError(errno.EAGAIN, "another process is creating this file", str(path))
        temporary.replace(path)
        return True
    finally:
        with suppress(OSError):
            if claim.read_text() == token:
                claim.unlink()


def _remove_stale(claim: Path, temporary: Path) -> None:
    """Remove the claim of a process that died. Both times are those of the file system's own clock."""
    with suppress(FileNotFoundError):
        if temporary.stat().st_mtime - claim.stat().st_mtime > STALE_CLAIM_S:
            claim.unlink()
