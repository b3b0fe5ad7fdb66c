"""Packing: a raw data set becomes a packed one in a store, unless it is there already.

The name of a data set is made from its source and the fingerprint of the source's files, so an unchanged source is
found again without decoding it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

from saltray.data.inspection import inspect
from saltray.data.layout import DATASETS, MANIFEST, dataset_prefix, is_dataset_prefix, shard_key
from saltray.data.packed import FORMAT, DatasetManifest, PackedDataset, read_manifest
from saltray.data.problems import Problem, named, raise_problems
from saltray.data.raw import list_images, read_image
from saltray.data.raw_layout import find_layout
from saltray.data.shards import ShardWriter, write_manifest
from saltray.data.source import Source
from saltray.data.tiles import LabelledTiles
from saltray.data.workers import Mapper, map_on_cores
from saltray.errors import DataError, IntegrityError, NotFoundError
from saltray.progress import Observer
from saltray.storage.base import Entry, Store
from saltray.storage.near import is_there
from saltray.storage.uri import open_store
from saltray.wording import there_are

_FILES = 4096
"""Files of a task of the fingerprint."""


@dataclass(frozen=True)
class DatasetSize:
    """Number and size of the labelled tiles of a data set."""

    count: int
    height: int
    width: int

    @property
    def packed_bytes(self) -> int:
        """Bytes of all images and masks in memory during training: a byte and a bit per pixel."""
        pixels = self.height * self.width
        return self.count * (pixels + -(-pixels // 8))


def dataset_size(uri: str, store: Store) -> DatasetSize:
    """The number of labelled tiles of a data set, and the size of the first; of a raw one only that tile is read.

    Args:
        uri: as for `open_packed`.
        store: where packed data sets are kept; nothing is written to it.

    Raises:
        DataError: there are no tiles, or the first cannot be decoded.
        IntegrityError: the manifest of a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    if folder := find_packed(uri, store):
        manifest = read_manifest(folder)
        return DatasetSize(manifest.tiles, manifest.height, manifest.width)
    refuse_unknown(uri, store)
    source = Source(uri)
    names = list_images(source, "train")
    try:
        height, width = read_image(source, names[0], scale=None).pixels.shape
    except DataError as error:
        raise named(error, source.uri, names[0]) from error
    return DatasetSize(len(names), height, width)


def pack(uri: str, store: Store) -> DatasetManifest:
    """Pack the labelled part of a raw data set, unless it is packed already.

    Raises:
        DataError: the labelled part or a table has problems; `problems` lists them by file.
        StorageError: the source or the store cannot be reached.
    """
    return read_manifest(_ensure_packed(uri, store, map_on_cores, None))


def open_packed(
    uri: str, store: Store, observer: Observer | None = None, mapper: Mapper = map_on_cores
) -> PackedDataset:
    """A data set whose tiles are read shard by shard.

    Args:
        uri: a raw data set, which is packed into the store first; `datasets/NAME` of the store; or the URI of a packed
            data set's folder.
        store: where packed data sets are kept.
        observer: is told how many tiles are packed.
        mapper: where a raw data set is decoded.

    Raises:
        DataError: a raw data set has problems, which `problems` lists by file.
        IntegrityError: a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    return PackedDataset.open(find_packed(uri, store) or _ensure_packed(uri, store, mapper, observer))


def load_tiles(
    uri: str, store: Store, observer: Observer | None = None, mapper: Mapper = map_on_cores
) -> tuple[LabelledTiles, DatasetManifest]:
    """The labelled tiles of a data set, all in memory, and its manifest.

    Args:
        uri: as for `open_packed`, and so are the others.
        store: as there.
        observer: as there.
        mapper: as there.

    Raises:
        as `open_packed`.
    """
    found = open_packed(uri, store, observer, mapper)
    return found.tiles(), found.manifest


def packed_tiles(digest: str, uri: str, store: Store) -> PackedDataset | None:
    """The data set of a content digest, where it is packed; None where it is not. Nothing is packed.

    Args:
        digest: of a `DatasetManifest`.
        uri: where the tiles came from; it may be a packed data set itself.
        store: where packed data sets are kept.

    Raises:
        IntegrityError: the packed data set of this digest is damaged.
        StorageError: the store cannot be reached.
    """
    own = (store.sub(dataset_prefix(name)) for name in store.folders(DATASETS))
    for folder in filter(None, chain(own, (find_packed(uri, store),))):
        try:
            manifest = read_manifest(folder)
        except (NotFoundError, IntegrityError, DataError):  # being packed, or damaged: another may have the tiles
            continue
        if manifest.digest == digest:
            return PackedDataset.open(folder)
    return None


def find_packed(uri: str, store: Store) -> Store | None:
    """The folder of the packed data set that a URI names; None if it does not name one."""
    if is_dataset_prefix(uri) and store.exists(f"{uri}/{MANIFEST}"):
        return store.sub(uri)
    if uri.lower().endswith(".zip"):
        return None
    folder = open_store(uri)
    return folder if folder.exists(MANIFEST) and folder.exists(shard_key(0)) else None


def refuse_unknown(uri: str, store: Store) -> None:
    """Refuse `datasets/NAME` where there is none in the store, nor a folder of raw files here.

    Raises:
        DataError: it is one; the message says which there are.
    """
    if is_dataset_prefix(uri) and not is_there(uri):
        name = uri.removeprefix(f"{DATASETS}/")
        known = [other for other in store.folders(DATASETS) if store.exists(f"{dataset_prefix(other)}/{MANIFEST}")]
        remedy = there_are(name, known, "there are none yet; name the raw tiles, and `saltray train` packs them")
        raise DataError(f"no packed data set {name} in {store.uri}; {remedy}")


def _ensure_packed(uri: str, store: Store, mapper: Mapper, observer: Observer | None) -> Store:
    """The folder of a raw data set's packed form, which is written unless it exists."""
    refuse_unknown(uri, store)
    source = Source(uri)
    name = f"{_plain_name(source.uri)}-{_fingerprint(source, mapper)[:12]}"
    folder = store.sub(dataset_prefix(name))
    if not folder.exists(MANIFEST):
        try:
            found = inspect(source, ShardWriter(folder), test=False, mapper=mapper, observer=observer)
        except DataError:
            for entry in list(folder.list()):  # the shards before the first fault
                folder.delete(entry.key)
            raise
        write_manifest(
            folder,
            found.used,
            name=name,
            source=source.uri,
            index=found.index,
            statistics=found.statistics,
            pixel_range=found.pixel_range,
            notes=found.notes,
        )
    return folder


def _plain_name(uri: str) -> str:
    """The last part of a URI, reduced to letters, digits, '.', '_' and '-'."""
    name = re.sub(r"\.zip$", "", uri.rstrip("/").rpartition("/")[2], flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60] or "tiles"


def _fingerprint(source: Source, mapper: Mapper) -> str:
    """SHA-256 over name, size and content tag of every file that packing reads; nothing is decoded."""
    problems: list[Problem] = []
    layout = find_layout(source, problems)
    raise_problems(source.uri, problems)
    entries = sorted([*layout.images.values(), *layout.masks.values(), *layout.tables.values()])
    # What is packed in another format has another name.
    whole = hashlib.sha256(str(FORMAT).encode())
    tags = chain.from_iterable(mapper(partial(_content_tags, source), _groups(entries)))
    for entry, tag in zip(entries, tags, strict=True):
        whole.update(json.dumps([entry.key, entry.size, tag]).encode())
    return whole.hexdigest()


def _groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), _FILES):
        yield entries[start : start + _FILES]


def _content_tags(source: Source, entries: Iterable[Entry]) -> list[str]:
    with ThreadPoolExecutor(source.threads) as pool:
        return list(pool.map(source.content_tag, entries))
