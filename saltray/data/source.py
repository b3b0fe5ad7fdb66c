"""The sources of raw files: a folder, an S3 prefix, a zip in one of these, or a folder with Kaggle's zips."""

import builtins
import hashlib
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

from saltray.data.png import check_bytes
from saltray.errors import DataError, NotFoundError
from saltray.storage.base import Entry, Store
from saltray.storage.uri import open_store

# Kaggle's archives: the folder of their members, and the folders whose presence means that they are unpacked.
_ARCHIVES = {
    "train.zip": ("train/", {"train", "images"}),
    "test.zip": ("test/", {"test"}),
    "competition_data.zip": ("", {"train", "test", "images"}),
}


class Source:
    """The raw files of a data set, by names relative to its top level.

    Args:
        uri: a folder, file:///folder, s3://bucket/prefix, or one of these followed by the name of a zip.

    Attributes:
        uri: the same, with an absolute path for a folder. It has no credentials: `open_store` refuses such URIs.
        threads: number of reading threads: few for local files, where decoding is the bottleneck, more for S3.

    Raises:
        ConfigError: the URI is not valid.
        DataError: a zip is damaged.
        StorageError: the source cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        zipped = _find_zip(uri)
        self._is_zip = zipped is not None
        if zipped is not None:
            self._store, name = zipped
            self.uri = f"{self._store.uri.rstrip('/')}/{name}"
            self._archives = [_Archive(self._store, name, "")]
        else:
            self._store = open_store(uri)
            self.uri = self._store.uri
            present = set(self._store.folders())
            self._archives = [
                _Archive(self._store, name, prefix)
                for name, (prefix, unpacked) in _ARCHIVES.items()
                if not unpacked & present and self._store.exists(name)
            ]
        self.threads = 4 if _is_local(self._store) else 16

    def list(self) -> builtins.list[Entry]:
        """All files, sorted by name. A zip may have the same name twice. The tag of a zip's member is its CRC-32."""
        entries = [] if self._is_zip else builtins.list(self._store.list())
        for archive in self._archives:
            entries += archive.entries
        return sorted(entries)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it cannot be read from its zip. The message does not name the file.
            NotFoundError: there is no such file.
        """
        for archive in self._archives:
            if name in archive.members:
                return archive.read(name)
        if self._is_zip:
            raise NotFoundError(f"{self.uri} has no file {name}; check the name")
        return self._store.get(name)

    def content_tag(self, entry: Entry) -> str:
        """A tag that a copy of the file has too: S3's ETag, a zip member's CRC-32 or a local file's SHA-256."""
        in_archive = any(entry.key in archive.members for archive in self._archives)
        if in_archive or not _is_local(self._store):
            return entry.tag
        return hashlib.sha256(self._store.get(entry.key)).hexdigest()


class _Archive:
    """A zip whose members belong below `prefix`, unless their names start with it already."""

    def __init__(self, store: Store, name: str, prefix: str) -> None:
        try:
            self._zip = _open_zip(store, name)
        except zipfile.BadZipFile as error:
            raise DataError(f"{store.uri}/{name} is not a complete zip ({error}); download it again") from error
        except OSError as error:
            raise DataError(f"{store.uri}/{name} cannot be opened ({error.strerror}); check its permissions") from error
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if any(info.filename.startswith(prefix) for info in infos):
            prefix = ""
        self.members = {prefix + info.filename: info for info in infos}
        self.entries = [Entry(prefix + info.filename, info.file_size, f"{info.CRC:08x}") for info in infos]

    def read(self, name: str) -> bytes:
        info = self.members[name]
        check_bytes(info.file_size)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others have no bounded expansion
            raise DataError("its compression is neither stored nor deflated; create the zip again with one of these")
        try:
            return self._zip.read(info)
        except Exception as error:  # encrypted or damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"cannot be read from the zip ({reason}); create the zip again") from error


def _find_zip(uri: str) -> tuple[Store, str] | None:
    """The folder and the name of the zip that a URI names; None if it does not name one."""
    folder, slash, name = uri.rpartition("/")
    if not name.lower().endswith(".zip"):
        return None
    store = open_store(folder + slash or ".")
    name = unquote(name) if uri.startswith("file://") else name
    return (store, name) if store.exists(name) else None


def _open_zip(store: Store, name: str) -> zipfile.ZipFile:
    if _is_local(store):
        return zipfile.ZipFile(Path(store.uri, name))
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, "archive.zip")
        store.get_file(name, path)
        return zipfile.ZipFile(path)  # the open file remains readable without its name


def _is_local(store: Store) -> bool:
    return not store.uri.startswith("s3://")
