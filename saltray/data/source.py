"""Where raw files come from: a folder, an S3 prefix, a zip in one of these, or Kaggle's zips together in one."""

import builtins
import hashlib
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

from saltray.data.png import check_bytes
from saltray.errors import DataError, NotFoundError
from saltray.storage.base import Entry, Store
from saltray.storage.names import open_store

# Kaggle's archives: where their members belong, and the folders that say that they lie there unpacked already.
_ARCHIVES = {
    "train.zip": ("train/", {"train", "images"}),
    "test.zip": ("test/", {"test"}),
    "competition_data.zip": ("", {"train", "test", "images"}),
}


class Source:
    """The raw files of a data set, by names relative to its top.

    Args:
        uri: a folder, file:///folder, s3://bucket/prefix, or one of these followed by the name of a zip.

    Attributes:
        uri: the same, with a folder's path made absolute. It never holds credentials: `open_store` refuses such URIs.
        threads: how many are worth reading with: a few where decoding is the limit, more where the answers come late.

    Raises:
        ConfigError: the URI cannot be one.
        DataError: a zip is damaged.
        StorageError: the place cannot be reached.
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
        """All files by name. A zip may hold one name twice. The tag of a zip's member is its CRC-32."""
        entries = [] if self._is_zip else builtins.list(self._store.list())
        for archive in self._archives:
            entries += archive.entries
        return sorted(entries)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            DataError: it cannot be read from its zip. The message does not name the file.
            NotFoundError: there is none.
        """
        for archive in self._archives:
            if name in archive.members:
                return archive.read(name)
        if self._is_zip:
            raise NotFoundError(f"{self.uri}: it holds no {name}; check the name")
        return self._store.get(name)

    def content_tag(self, entry: Entry) -> str:
        """A tag that stays when the same file is copied: S3's ETag, a zip's CRC-32, a local file's SHA-256."""
        in_archive = any(entry.key in archive.members for archive in self._archives)
        if in_archive or not _is_local(self._store):
            return entry.tag
        return hashlib.sha256(self._store.get(entry.key)).hexdigest()


class _Archive:
    """A zip whose members stand below `prefix`, unless their names begin with it already."""

    def __init__(self, store: Store, name: str, prefix: str) -> None:
        try:
            self._zip = _open_zip(store, name)
        except zipfile.BadZipFile as error:
            raise DataError(f"{store.uri}/{name} is not a whole zip ({error}); download it again") from error
        except OSError as error:
            raise DataError(f"{store.uri}/{name} cannot be opened ({error.strerror}); let this user read it") from error
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if any(info.filename.startswith(prefix) for info in infos):
            prefix = ""
        self.members = {prefix + info.filename: info for info in infos}
        self.entries = [Entry(prefix + info.filename, info.file_size, f"{info.CRC:08x}") for info in infos]

    def read(self, name: str) -> bytes:
        info = self.members[name]
        check_bytes(info.file_size)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the only ones that grow boundedly
            raise DataError("its compression is neither stored nor deflated; pack it again")
        try:
            return self._zip.read(info)
        except Exception as error:  # encrypted or damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"cannot be read from the zip ({reason}); pack it again") from error


def _find_zip(uri: str) -> tuple[Store, str] | None:
    """The folder and the name of the zip that a URI names, if it names one."""
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
        return zipfile.ZipFile(path)  # the open file outlives its name


def _is_local(store: Store) -> bool:
    return not store.uri.startswith("s3://")
