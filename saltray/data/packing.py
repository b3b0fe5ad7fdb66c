"""Packed data sets: labelled tiles as Parquet shards of raw pixels, about 100 times faster to read than PNG files.

Each shard has the columns id, image (H*W bytes, C order) and mask (H*W bits, C order). The name of a data set is made
from its source and the fingerprint of the source's files, so an unchanged source is found again without decoding it.
`layout` has the keys.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from saltray.data.images import decode_image
from saltray.data.inspection import inspect
from saltray.data.layout import DATASETS, MANIFEST, dataset_prefix, is_dataset_prefix, shard_key
from saltray.data.pixel_range import PixelRange
from saltray.data.problems import Problem, named, raise_problems
from saltray.data.raw import list_images, read_all_images, read_image
from saltray.data.raw_layout import find_layout
from saltray.data.source import Source
from saltray.data.statistics import Statistics, statistics_of
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError, IntegrityError, NotFoundError
from saltray.records import Count, Pixels, Sha256, digest, excerpt, from_record
from saltray.storage.base import Store
from saltray.storage.keys import Key
from saltray.storage.uri import open_store

FORMAT = 1
SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a packed data set."""

    key: Key
    """Relative to the data set's folder."""
    tiles: Count
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a packed data set holds, and where it is from."""

    format: int
    name: str
    source: str
    """URI of the raw data set."""
    digest: Sha256
    """SHA-256 over ids, size, pixels, masks and the range of 16-bit images: equal for equal tiles of other files."""
    tiles: Count
    height: Pixels
    """Pixels."""
    width: Pixels
    """Pixels."""
    statistics: Statistics
    pixel_range: PixelRange | None = None
    """Of the image files, whose values the shards have scaled to 0..255. None if packed before there was this field:
    16-bit images were then scaled by 65535."""
    notes: tuple[str, ...] = ()
    """What was read in another way than the most usual one, a line each."""
    shards: Annotated[tuple[Shard, ...], Field(alias="parts")]


@dataclass(frozen=True)
class DatasetSize:
    """Number and size of the labelled tiles of a data set."""

    count: int
    height: int
    width: int

    @property
    def packed_bytes(self) -> int:
        """Bytes of all images and masks in memory during training, at one byte per pixel each."""
        return 2 * self.count * self.height * self.width


@dataclass(frozen=True, eq=False)
class AllImages:
    """Every image of a data set, with or without a mask."""

    tiles: Tiles
    digest: str
    """SHA-256 over ids, size and pixels."""
    notes: tuple[str, ...]
    """What else there may be, a line each."""


def dataset_size(uri: str, store: Store) -> DatasetSize:
    """The number of labelled tiles of a data set, and the size of the first; of a raw one only that tile is read.

    Args:
        uri: as for `load_tiles`.
        store: where packed data sets are kept; nothing is written to it.

    Raises:
        DataError: there are no tiles, or the first cannot be decoded.
        IntegrityError: the manifest of a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    if folder := find_packed(uri, store):
        manifest = _read_manifest(folder)
        return DatasetSize(manifest.tiles, manifest.height, manifest.width)
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
    return _read_manifest(_ensure_packed(uri, store))


def load_tiles(uri: str, store: Store) -> tuple[LabelledTiles, DatasetManifest]:
    """The labelled tiles of a data set, and its manifest.

    Args:
        uri: a raw data set, which is packed into the store first; `datasets/NAME` of the store; or the URI of a packed
            data set's folder.
        store: where packed data sets are kept.

    Raises:
        DataError: a raw data set has problems, which `problems` lists by file.
        IntegrityError: a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    folder = find_packed(uri, store) or _ensure_packed(uri, store)
    manifest = _read_manifest(folder)
    return _read_shards(manifest, folder), manifest


def packed_tiles(digest: str, uri: str, store: Store) -> LabelledTiles | None:
    """The tiles of a content digest, where they are packed; None where they are not. Nothing is packed.

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
            manifest = _read_manifest(folder)
        except (NotFoundError, IntegrityError, DataError):  # being packed, or damaged: another may have the tiles
            continue
        if manifest.digest == digest:
            return _read_shards(manifest, folder)
    return None


def load_all_images(uri: str, store: Store) -> AllImages:
    """The images of a data set's training and test parts, for what needs no masks; nothing is written.

    Args:
        uri: as for `load_tiles`; a packed data set has the labelled tiles alone.
        store: where packed data sets are kept.

    Raises:
        DataError: images of a raw data set have problems, which `problems` lists by file, or there are none.
        IntegrityError: a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    notes: tuple[str, ...] = ()
    if folder := find_packed(uri, store):
        manifest = _read_manifest(folder)
        labelled = _read_shards(manifest, folder)
        tiles = Tiles(labelled.ids, labelled.images)
        notes = (
            f"packed, with labelled tiles alone; to use its test images, too, name the raw one ({manifest.source})",
        )
    else:
        tiles = read_all_images(uri)
    sha256 = hashlib.sha256(json.dumps([tiles.ids, *tiles.images.shape[1:]]).encode())
    sha256.update(np.ascontiguousarray(tiles.images).data)
    return AllImages(tiles, sha256.hexdigest(), notes)


def find_packed(uri: str, store: Store) -> Store | None:
    """The folder of the packed data set that a URI names; None if it does not name one."""
    if is_dataset_prefix(uri) and store.exists(f"{uri}/{MANIFEST}"):
        return store.sub(uri)
    if uri.lower().endswith(".zip"):
        return None
    folder = open_store(uri)
    return folder if folder.exists(MANIFEST) and folder.exists(shard_key(0)) else None


def _ensure_packed(uri: str, store: Store) -> Store:
    """The folder of a raw data set's packed form, which is written unless it exists."""
    source = Source(uri)
    name = f"{_plain_name(source.uri)}-{_fingerprint(source)[:12]}"
    folder = store.sub(dataset_prefix(name))
    if not folder.exists(MANIFEST):
        found = inspect(source, test=False)
        tiles = found.tiles
        manifest = DatasetManifest(
            format=FORMAT,
            name=name,
            source=source.uri,
            digest=_tiles_digest(tiles.ids, tiles.images, tiles.masks, found.pixel_range),
            tiles=len(tiles),
            height=tiles.height,
            width=tiles.width,
            statistics=statistics_of(tiles),
            pixel_range=found.pixel_range,
            notes=found.notes,
            shards=tuple(_write_shards(tiles, folder)),
        )
        folder.put_record(MANIFEST, manifest)
    return folder


def _plain_name(uri: str) -> str:
    """The last part of a URI, reduced to letters, digits, '.', '_' and '-'."""
    name = re.sub(r"\.zip$", "", uri.rstrip("/").rpartition("/")[2], flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60] or "tiles"


def _fingerprint(source: Source) -> str:
    """SHA-256 over name, size and content tag of every file that packing reads; only one image is decoded."""
    problems: list[Problem] = []
    layout = find_layout(source, problems)
    raise_problems(source.uri, problems)
    entries = sorted([*layout.images.values(), *layout.masks.values(), *layout.tables.values()])
    with ThreadPoolExecutor(source.threads) as pool:
        tags = pool.map(source.content_tag, entries)
        files: list[object] = [(entry.key, entry.size, tag) for entry, tag in zip(entries, tags, strict=True)]
    first = next(iter(layout.images.values()))
    with suppress(DataError):  # which packing reports
        if decode_image(source.read(first.key)).itemsize > 1:
            files.append("scaled by their range")  # as they were not under the name without this
    return digest(files)


def _tiles_digest(
    ids: Sequence[str], images: NDArray[np.uint8], masks: NDArray[np.uint8], scale: PixelRange | None
) -> str:
    """The digest of `DatasetManifest`, of tiles [N, H, W]."""
    deep = [] if scale is None or scale.bits == 8 else [scale.bits, scale.maximum]
    sha256 = hashlib.sha256(json.dumps([ids, *images.shape[1:], *deep]).encode())
    sha256.update(np.ascontiguousarray(images).data)
    sha256.update(_bits(masks).data)
    return sha256.hexdigest()


def _bits(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks [N, H, W] as rows of bits, padded to whole bytes."""
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


def _write_shards(tiles: LabelledTiles, folder: Store) -> Iterator[Shard]:
    """Write the shards, and yield the manifest's entry of each."""
    step = max(1, SHARD_BYTES // (tiles.height * tiles.width * 9 // 8))
    for number, start in enumerate(range(0, len(tiles), step)):
        chosen = slice(start, start + step)
        columns = {
            "id": tiles.ids[chosen],
            "image": [image.tobytes() for image in tiles.images[chosen]],
            "mask": [row.tobytes() for row in _bits(tiles.masks[chosen])],
        }
        schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("mask", pa.binary())])
        key = shard_key(number)
        yield Shard(key, len(columns["id"]), folder.put_table(key, pa.table(columns, schema=schema)))


@contextmanager
def _damage_explained(folder: Store) -> Iterator[None]:
    """Turn what the body raises about a damaged packed data set into an IntegrityError with the remedy."""
    try:
        yield
    except (IntegrityError, KeyError, TypeError, ValueError) as error:
        remedy = "delete it and train from the raw files, which packs them again"
        raise IntegrityError(f"packed data set {folder.uri} is damaged ({error}); {remedy}") from error


def _read_manifest(folder: Store) -> DatasetManifest:
    with _damage_explained(folder):
        record = folder.get_json(MANIFEST)
        # First, because another format may have other fields.
        found = record.get("format", FORMAT) if isinstance(record, dict) else FORMAT
        if found != FORMAT:
            raise DataError(
                f"{folder.uri} is packed in format {excerpt(found)}, not {FORMAT}; pack the raw tiles again"
            )
        return from_record(DatasetManifest, record)


def _read_shards(manifest: DatasetManifest, folder: Store) -> LabelledTiles:
    """Read every shard and check all digests."""
    height, width = manifest.height, manifest.width
    with _damage_explained(folder):
        tables = [folder.get_table(shard.key, sha256=shard.sha256, rows=shard.tiles) for shard in manifest.shards]
        ids = [tile for table in tables for tile in table["id"].to_pylist()]
        images = np.concatenate([_matrix(table["image"], height * width) for table in tables])
        bits = np.concatenate([_matrix(table["mask"], -(-height * width // 8)) for table in tables])
        masks = np.unpackbits(bits, axis=1, count=height * width).reshape(-1, height, width)
        images = images.reshape(-1, height, width)
        if _tiles_digest(ids, images, masks, manifest.pixel_range) != manifest.digest:
            raise IntegrityError("its tiles are not those of its manifest")
    return LabelledTiles(tuple(ids), images, masks)


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """A column of byte strings of one length as [N, width]."""
    rows: list[bytes] = column.to_pylist()
    if any(len(row) != width for row in rows):
        raise IntegrityError(f"a row does not have {width} bytes")
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
