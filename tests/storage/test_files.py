import errno
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from saltray.errors import StorageError
from saltray.storage.files import (
    CHUNK_BYTES,
    TEMP_PREFIX,
    explain_os_error,
    no_scratch,
    read_chunks,
    scratch_folder,
    sha256_of,
    sync,
    temporary_file,
    write_here,
)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "mount it for writing"), (77, "check that")]
)
def test_an_os_error_is_explained_on_one_line(number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number), "/mnt/x")
    message = str(explain_os_error("store/key", error))
    assert message.startswith(f"store/key: {os.strerror(number)} (/mnt/x); {remedy}")


def test_an_os_error_without_number_and_file() -> None:
    assert str(explain_os_error("store/key", OSError("no\n  luck"))).startswith("store/key: no luck; check that")


def test_a_temporary_file_is_deleted_unless_it_was_renamed(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as file:
        assert [path.name.startswith(TEMP_PREFIX) for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), temporary_file(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with temporary_file(tmp_path) as file:
        file.write(b"1")
        Path(file.name).rename(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"1"


def test_a_scratch_folder_is_deleted_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as folder:
        assert folder.parent == tmp_path
        (folder / "file").write_bytes(b"1")
    with pytest.raises(ZeroDivisionError), scratch_folder() as folder:
        (folder / "file").write_bytes(b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_temporary_files_that_takes_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError) as caught, scratch_folder():
        pass
    remedy = "free some space there, or set TMPDIR to another folder"
    assert (
        str(caught.value)
        == f"temporary files cannot be written to {tmp_path}/absent: No such file or directory; {remedy}"
    )
    # Some libraries tell of a full disk in words of their own.
    assert str(no_scratch(RuntimeError("unexpected pos\n 64 vs 0"))).endswith(f": unexpected pos 64 vs 0; {remedy}")


def test_a_failed_write_names_its_file() -> None:
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    with pytest.raises(OSError, match="'/dev/full'"):
        write_here(full, b"1")
        sync(full)
    with suppress(OSError):
        full.close()


def test_chunks_and_digest_are_those_of_the_whole_file(tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    file = path.open("rb")
    chunks = list(read_chunks(file))
    assert file.closed
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert b"".join(chunks) == data
    assert sha256_of(path) == hashlib.sha256(data).hexdigest()
