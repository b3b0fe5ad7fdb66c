"""Zips of raw files, from anywhere: damaged, malicious, or merely made by another program."""

import zipfile
from contextlib import suppress
from pathlib import Path

from saltray.data.images import check_bytes
from saltray.errors import DataError, one_line
from saltray.storage.base import Entry, Store
from saltray.storage.files import scratch_folder

MAX_DIRECTORY_BYTES = 16 * 2**20
"""Largest list of members, of about 100 bytes each, that is loaded: in memory it takes up to 30 times as much."""
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_UTF_8 = 0x800  # the flag of a name in UTF-8, without which zipfile reads cp437
_END_BYTES, _LOCATOR_BYTES = 22, 20


class Archive:
    """The members of a zip that is an object of a store.

    Attributes:
        name: of the zip, relative to the store.
        members: one entry per member, folders excluded; their tags are CRC-32s.

    Raises:
        DataError: it is damaged, or has too many members.
        StorageError: it cannot be reached.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        where = f"{store.uri.rstrip('/')}/{name}"
        try:
            self._zip = _open_zip(store, name)
            infos = [info for info in self._zip.infolist() if not info.is_dir()]
        except OSError as error:
            raise DataError(f"{where} cannot be opened ({error.strerror or error}); check its permissions") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except Exception as error:  # a malicious file can raise anything
            raise DataError(f"{where} is not a complete zip ({one_line(error, 200)}); download it again") from error
        self._infos = [(_plain(info), info) for info in infos]
        self.members = [Entry(name, info.file_size, f"{info.CRC:08x}") for name, info in self._infos]

    def read(self, number: int) -> bytes:
        """The content of a member, by its position in `members`.

        Raises:
            DataError: it cannot be read. The message does not name the file.
        """
        info = self._infos[number][1]
        check_bytes(info.file_size)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others have no bounded expansion
            raise DataError("its compression is neither stored nor deflated; create the zip again with one of these")
        try:
            return self._zip.read(info)
        except Exception as error:  # encrypted or damaged
            raise DataError(f"cannot be read from the zip ({one_line(error, 200)}); create the zip again") from error


def _plain(info: zipfile.ZipInfo) -> str:
    """A member's name. Programs of Windows write folders with a backslash, and macOS UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & _UTF_8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name if "/" in name else name.replace("\\", "/")


def _open_zip(store: Store, name: str) -> zipfile.ZipFile:
    if not store.is_remote:
        return _open_file(Path(store.uri, name))
    with scratch_folder() as folder:
        path = folder / "archive.zip"
        store.get_file(name, path)
        return _open_file(path)  # the open file remains readable without its name


def _open_file(path: Path) -> zipfile.ZipFile:
    size = _directory_bytes(path)
    if size > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"a list of members of {size:,} bytes; the limit is {MAX_DIRECTORY_BYTES:,}: unpack it, and name the folder"
        )
    return zipfile.ZipFile(path)


def _directory_bytes(path: Path) -> int:
    """The size of a zip's list of members, which zipfile would load whole; 0 if there is no such list."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start = max(0, end - _END_BYTES - 65535 - _LOCATOR_BYTES)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or at + _END_BYTES > len(tail):
            return 0
        size = int.from_bytes(tail[at + 12 : at + 16], "little")
        locator = tail[max(0, at - _LOCATOR_BYTES) : at]
        if locator[:4] == _LOCATOR_64:
            file.seek(min(int.from_bytes(locator[8:16], "little"), end))
            record = file.read(56)
            size = int.from_bytes(record[40:48], "little") if record[:4] == _END_64 else size
        return size if size <= end else 0  # zipfile refuses what cannot be
