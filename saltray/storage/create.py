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
    """Rename unless `path` exists. Only who holds the claim may look whether it does and then rename."""
    claim = path.with_name(f"{TEMP_PREFIX}claim-{path.name}")
    token = uuid.uuid4().hex
    try:
        with claim.open("x") as file:
            file.write(token)
    except FileExistsError:
        if path.exists():
            return False
        _remove_stale(claim, temporary)
        raise _busy(path) from None
    try:
        if path.exists():
            return False
        if _text(claim) != token:  # taken for stale while this process was stopped
            raise _busy(path)
        temporary.replace(path)
        return True
    finally:
        with suppress(OSError):
            if _text(claim) == token:
                claim.unlink()


def _remove_stale(claim: Path, temporary: Path) -> None:
    """Remove the claim of a process that died. Both times are those of the file system's own clock.

    Another process may remove it too, and create its own, before this one does. Hence it is renamed first: if what was
    renamed is not the claim that was stale, it is put back.
    """
    stale = _text(claim)
    with suppress(FileNotFoundError):
        if stale is None or temporary.stat().st_mtime - claim.stat().st_mtime <= STALE_CLAIM_S:
            return
        aside = claim.with_name(f"{TEMP_PREFIX}{uuid.uuid4().hex}")
        claim.rename(aside)
        if _text(aside) == stale or claim.exists():
            aside.unlink()
        else:
            aside.rename(claim)


def _text(claim: Path) -> str | None:
    """What a claim says; None if it was removed, as by a process that took it for stale."""
    try:
        return claim.read_text()
    except FileNotFoundError:
        return None


def _busy(path: Path) -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "another process is creating this file", str(path))
