"""The sources of raw files: a folder, an S3 prefix, a zip in one of these, or a folder with Kaggle's zips."""

import builtins
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

from saltray.data.archive import Archive
from saltray.data.data_root import FOLDERS, SubFolders, find_root, has_tiles, unread_folders
from saltray.data.names import is_clutter, is_image
from saltray.data.problems import Problem, and_more, printable
from saltray.errors import ConfigError, DataError, NotFoundError
from saltray.storage.base import Entry, Store
from saltray.storage.files import explain_os_error
from saltray.storage.outputs import full_name
from saltray.storage.uri import open_object, open_store

SAMPLE = "sample_submission.csv"
TABLES = ("train.csv", "depths.csv", SAMPLE)
# Kaggle's archives: the folder of their members, and the folders whose presence means that they are unpacked.
_ARCHIVES = {
    "train.zip": ("train/", {"train", "images"}),
    "test.zip": ("test/", {"test"}),
    "competition_data.zip": ("", {"train", "test", "images"}),
}
_FIRST_OBJECTS = 1000
"""Objects of a prefix among which images are looked for: those of one answer."""
_MAX_OTHERS = 20_000
"""Objects of a prefix that are no tiles, before it is no data set."""


class Source:
    """The raw files of a data set, by names relative to its top level.

    A folder that holds the data set alone, as in most zips, is not part of the names.

    Args:
        uri: a folder, file:///folder, s3://bucket/prefix, or one of these followed by the name of a zip.

    Attributes:
        uri: the same, with an absolute path for a folder. It has no credentials: `open_store` refuses such URIs.
        threads: number of reading threads: few for local files, where decoding is the bottleneck, more for S3.
        notes: what is in another place than the usual one, a line each.
        problems: files that contradict each other.

    Raises:
        ConfigError: the URI is not valid.
        DataError: a zip is damaged, or there are several data sets.
        StorageError: the source cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.notes: builtins.list[str] = []
        self.problems: builtins.list[Problem] = []
        self._members: dict[str, tuple[Archive, int, Entry]] = {}
        self._twice: builtins.list[str] = []
        zipped = _find_zip(uri)
        self._is_zip = zipped is not None
        if zipped is not None:
            self._store, name = zipped
            self.uri = f"{self._store.uri.rstrip('/')}/{name}"
            self._add(Archive(self._store, name), "")
        else:
            self._store = open_store(uri)
            self.uri = self._store.uri
            if root := find_root(self._parts, self._has_images, self.uri):
                self._note_root(self.uri, root)
                self._store = self._store.sub(root.rstrip("/"))
            self._note_unread(self._parts)
            present = {name.lower() for name in self._folders("")}
            for name, (prefix, unpacked) in _ARCHIVES.items():
                if not unpacked & present and (spelled := self._spelled("", name)):
                    self._add(Archive(self._store, spelled), prefix)
            for name in [name for name in self._members if name.lower() in TABLES]:
                if self._spelled("", name.lower()):
                    del self._members[name]  # it is unpacked
        if self._twice:
            self.notes.append(f"in several zips with equal content, and read once: {and_more(sorted(self._twice))}")
        self._token = uuid.uuid4().hex  # a later source of this URI may have other files
        self.threads = 4 if self._is_local else 16

    def __reduce__(self) -> tuple[object, ...]:
        """Another process opens it once, however often it is sent there."""
        return _reopened, (self.uri, self._token)

    @property
    def _is_local(self) -> bool:
        return not self._store.is_remote

    def list(self) -> builtins.list[Entry]:
        """All files that may be of a data set, sorted by name. The tag of a zip's member is its CRC-32."""
        loose = [] if self._is_zip else self._loose()
        return sorted([*loose, *(entry for _, _, entry in self._members.values())])

    def files(self) -> set[str]:
        """The full names, as `full_name` has them, of all files that are read: a zip's own for its members."""
        if self._is_zip:
            return {full_name(self.uri)}
        names = {archive.name for archive, _, _ in self._members.values()} | {entry.key for entry in self._loose()}
        if not self._is_local:
            return {f"{self._store.uri}/{name}" for name in names}
        folders = {parent: os.path.realpath(f"{self._store.uri}/{parent}") for parent in {*map(_parent, names)}}
        paths = {f"{folders[_parent(name)]}/{name.rpartition('/')[2]}" for name in names}
        return {os.path.realpath(path) if Path(path).is_symlink() else path for path in paths}

    def would_read(self, name: str) -> bool:
        """Whether a file or folder would count as part of the data set if it were there.

        Args:
            name: a full name, as `full_name` has it.
        """
        top, inner = full_name(self.uri), full_name(self._store.uri)
        if self._is_zip or not name.startswith(f"{top}/"):
            return False
        if name.startswith(f"{inner}/") and has_tiles(self._parts("")):
            below = name[len(inner) + 1 :].lower()
            return below in TABLES or below.partition("/")[0] in FOLDERS
        below = name[len(top) + 1 :].lower()  # any such folder would be taken for the data set
        return below in TABLES or not FOLDERS.isdisjoint(below.split("/"))

    def zips(self) -> builtins.list[str]:
        """Names of the zips on top."""
        return [entry.key for entry in self.list() if "/" not in entry.key and entry.key.lower().endswith(".zip")]

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it cannot be read from its zip. The message does not name the file.
            NotFoundError: there is no such file.
        """
        if name in self._members:
            archive, number, _ = self._members[name]
            return archive.read(number)
        if self._is_zip:
            raise NotFoundError(f"{self.uri} has no file {name}; check the name")
        return self._store.get(name)

    def content_tag(self, entry: Entry) -> str:
        """A tag that a copy of the file has too: S3's ETag, a zip member's CRC-32 or a local file's SHA-256."""
        if entry.key in self._members or not self._is_local:
            return entry.tag
        return hashlib.sha256(self._store.get(entry.key)).hexdigest()

    def _add(self, archive: Archive, prefix: str) -> None:
        """Add the members of a zip, which belong below `prefix` unless they are in the folder of that name already."""
        names = [entry.key for entry in archive.members if not is_clutter(entry.key)]

        def parts(folder: str) -> builtins.list[str]:
            return _folders_of(names, folder)

        def has_images(folder: str) -> bool:
            return any(is_image(name) and _parent(name) == folder.rstrip("/") for name in names)

        root = find_root(parts, has_images, f"{self._store.uri}/{archive.name}")
        if root:
            self._note_root(archive.name, root)
        if not prefix:
            self._note_unread(parts, root)
        if any(name.removeprefix(root).lower().startswith(prefix) for name in names):
            prefix = ""
        for number, entry in enumerate(archive.members):
            if not entry.key.startswith(root) or is_clutter(entry.key):
                continue
            name = prefix + entry.key.removeprefix(root)
            before = self._members.setdefault(name, (archive, number, entry._replace(key=name)))
            if before[:2] == (archive, number):
                continue
            if before[2][1:] == entry[1:]:
                self._twice.append(name)
            else:
                where = " and in ".join(dict.fromkeys((before[0].name, archive.name)))
                self.problems.append(Problem(name, f"is twice in {where}, with different content; remove one of them"))

    def _note_root(self, where: str, root: str) -> None:
        self.notes.append(f"the data set is in the folder {printable(root.rstrip('/'))} of {printable(where)}")

    def _note_unread(self, folders: SubFolders, root: str = "") -> None:
        if found := unread_folders(folders, root):
            self.notes.append(f"not read, as they are neither train nor test: {and_more(found)}")

    def _loose(self) -> builtins.list[Entry]:
        """The files that are not in zips: of a folder's direct files, and of the folders that a data set has."""
        folders = [name for name in self._folders("") if name.lower() in FOLDERS]
        if self._is_local:
            top = self._top()
        elif folders:
            top = [self._store.entry(name) for table in TABLES if (name := self._spelled("", table))]
        else:
            top = builtins.list(self._top_objects())
        return [*top, *(entry for name in folders for entry in self._store.list(name))]

    def _top(self) -> builtins.list[Entry]:
        """The files directly in a local folder, and the links that lead nowhere, so that reading them tells that."""
        with _os_error_explained(self._store.uri):
            items = _scan(self._store.uri)
            files = [Entry(item.name, item.stat().st_size, "") for item in items if item.is_file()]
            dangling = [item.name for item in items if item.is_symlink() and not Path(item.path).exists()]
        return files + [Entry(name, 0, "") for name in dangling]

    def _top_objects(self) -> Iterator[Entry]:
        """The objects directly below a prefix."""
        others = 0
        for entry in self._store.list():
            others += "/" in entry.key or not is_image(entry.key)
            if others > _MAX_OTHERS:
                raise DataError(
                    f"{self.uri} has over {_MAX_OTHERS:,} objects that are no tiles; name the data set itself"
                )
            if "/" not in entry.key:
                yield entry

    def _folders(self, prefix: str) -> builtins.list[str]:
        """Names of the sub-folders, without file managers' own."""
        if self._is_local:
            with _os_error_explained(self._store.uri):
                names = [item.name for item in _scan(f"{self._store.uri}/{prefix}") if item.is_dir()]
        else:
            names = self._store.folders(prefix.rstrip("/"))
        return sorted(name for name in names if name.isprintable() and not is_clutter(name))

    def _parts(self, prefix: str) -> builtins.list[str]:
        """Names of the sub-folders; a zip of Kaggle's counts as the folder that it holds."""
        return [*self._folders(prefix), *("train" for name in _ARCHIVES if self._spelled(prefix, name))]

    def _has_images(self, prefix: str) -> bool:
        """Whether images are directly in a folder."""
        if self._is_local:
            with _os_error_explained(self._store.uri):
                return any(is_image(item.name) for item in _scan(f"{self._store.uri}/{prefix}"))
        entries = self._store.sub(prefix.rstrip("/")).list() if prefix else self._store.list()
        return any("/" not in entry.key and is_image(entry.key) for entry in islice(entries, _FIRST_OBJECTS))

    def _spelled(self, prefix: str, name: str) -> str | None:
        """The name of a file of a folder as it is spelled there: "Train.zip" for "train.zip"; None if it is absent."""
        if self._is_local:
            with _os_error_explained(self._store.uri):
                files = {item.name for item in _scan(f"{self._store.uri}/{prefix}") if item.is_file()}
            return name if name in files else min((file for file in files if file.lower() == name), default=None)
        stem, _, kind = name.rpartition(".")
        return next((file for file in (name, f"{stem.title()}.{kind}") if self._store.exists(prefix + file)), None)


@lru_cache(maxsize=2)
def _reopened(uri: str, _token: str) -> Source:
    return Source(uri)


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _folders_of(names: Iterable[str], prefix: str) -> list[str]:
    """The sub-folders of a folder, from the names of all files."""
    below = (name.removeprefix(prefix).partition("/") for name in names if name.startswith(prefix))
    return sorted({folder for folder, slash, _ in below if slash})


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, which need not exist."""
    try:
        with os.scandir(folder) as items:
            return list(items)
    except FileNotFoundError:
        return []


@contextmanager
def _os_error_explained(where: str) -> Iterator[None]:
    try:
        yield
    except NotADirectoryError as error:
        raise DataError(f"{where} is a file; name a folder, or a zip") from error
    except OSError as error:
        raise explain_os_error(where, error) from error


def _find_zip(uri: str) -> tuple[Store, str] | None:
    """The folder and the name of the zip that a URI names; None if it does not name one."""
    try:
        store, name = open_object(uri)
    except ConfigError:
        return None  # a folder or bucket, or what `open_store` refuses
    return (store, name) if name.lower().endswith(".zip") and store.exists(name) else None
