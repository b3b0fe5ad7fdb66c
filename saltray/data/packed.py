"""Packed data sets: labelled tiles as Parquet shards of raw pixels, about 100 times faster to read than PNG files.

Each shard has the columns id, image (H*W bytes, C order) and mask (H*W bits, C order). An index has what is needed of
all tiles at once, so that no more than one shard need be in memory. `layout` has the keys.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from saltray.data.layout import INDEX, MANIFEST, shard_key
from saltray.data.pixel_range import PixelRange
from saltray.data.statistics import Statistics
from saltray.data.tiles import LabelledTiles, TileIndex, TileShard
from saltray.errors import DataError, IntegrityError
from saltray.records import Count, Pixels, Sha256, from_record
from saltray.storage.base import Store
from saltray.storage.keys import Key
from saltray.wording import excerpt

FORMAT = 2
_SHARD = pa.schema([("id", pa.string()), ("image", pa.binary()), ("mask", pa.binary())])
_INDEX = pa.schema([("id", pa.string()), ("salt", pa.int64()), ("same_mask", pa.int64())])


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
    """Of ids, size, pixels, masks and the range of 16-bit images (`ContentDigest`): equal for equal tiles of other
    files."""
    tiles: Count
    height: Pixels
    """Pixels."""
    width: Pixels
    """Pixels."""
    statistics: Statistics
    pixel_range: PixelRange
    """Of the image files, whose values the shards have scaled to 0..255."""
    notes: tuple[str, ...] = ()
    """What was read in another way than the most usual one, a line each."""
    shards: Annotated[tuple[Shard, ...], Field(alias="parts")]
    index: Sha256
    """SHA-256 of the index."""


class ContentDigest:
    """The digest of a data set's tiles, whatever their shards. It is fed in the order of the tiles."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, ids: Sequence[str], digests: bytes) -> None:
        """The next tiles: their ids, and `tile_digests` of them."""
        for tile, start in zip(ids, range(0, len(digests), _DIGEST_BYTES), strict=True):
            self._sha256.update(json.dumps(tile).encode() + digests[start : start + _DIGEST_BYTES])

    def hexdigest(self, height: int, width: int, pixel_range: PixelRange) -> str:
        """The digest after the last tile.

        Args:
            height: of the tiles.
            width: of the tiles.
            pixel_range: of their files; an ensemble takes the same tiles of another range for others.
        """
        deep = [] if pixel_range.bits == 8 else [pixel_range.bits, pixel_range.maximum]
        whole = self._sha256.copy()
        whole.update(json.dumps([height, width, *deep]).encode())
        return whole.hexdigest()


_DIGEST_BYTES = 32


def tile_digests(shard: TileShard) -> bytes:
    """A digest of the image and the mask of each tile, one after another."""
    found = []
    for image, mask in zip(*map(np.ascontiguousarray, (shard.images, shard.mask_bits)), strict=True):
        both = hashlib.blake2b(image.data, digest_size=_DIGEST_BYTES)
        both.update(mask.data)
        found.append(both.digest())
    return b"".join(found)


def write_shard(folder: Store, number: int, shard: TileShard) -> Shard:
    """Write a shard, and return the manifest's entry of it.

    Args:
        folder: of the data set.
        number: of the shard, from 0 on.
        shard: its tiles.
    """
    images = shard.images.reshape(len(shard), -1)
    columns = [pa.array(shard.ids, pa.string()), _column(images), _column(shard.mask_bits)]
    key = shard_key(number)
    return Shard(key, len(shard), folder.put_table(key, pa.table(columns, schema=_SHARD)))


def write_index(folder: Store, index: TileIndex) -> str:
    """Write the index of a data set, and return its SHA-256 in hex."""
    columns = [pa.array(index.ids, pa.string()), pa.array(index.salt), pa.array(index.same_mask)]
    return folder.put_table(INDEX, pa.table(columns, schema=_INDEX))


@dataclass(frozen=True, eq=False)
class PackedDataset:
    """A packed data set in a store, whose shards are read one at a time.

    Args:
        folder: of the data set.
        manifest: what it holds.
        index: of all tiles, in the order of the shards, whose ids ascend.
    """

    folder: Store
    manifest: DatasetManifest
    index: TileIndex

    @classmethod
    def open(cls, folder: Store) -> "PackedDataset":
        """The packed data set in a folder; no pixels are read.

        Raises:
            DataError: it has another format.
            IntegrityError: its manifest or its index is damaged.
            NotFoundError: there is none.
            StorageError: the store cannot be reached.
        """
        manifest = read_manifest(folder)
        with _damage_explained(folder):
            if sum(shard.tiles for shard in manifest.shards) != manifest.tiles:
                raise IntegrityError(f"its shards do not have {manifest.tiles} tiles")
            return cls(folder, manifest, _read_index(folder, manifest))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all tiles, ascending."""
        return self.index.ids

    @property
    def salt(self) -> NDArray[np.int64]:
        """[N] salt pixels of each tile."""
        return self.index.salt

    @property
    def shard_starts(self) -> tuple[int, ...]:
        """The position of each shard's first tile."""
        tiles = [shard.tiles for shard in self.manifest.shards]
        return tuple(int(end) - own for end, own in zip(np.cumsum(tiles), tiles, strict=True))

    def read_shard(self, number: int) -> TileShard:
        """One shard, after a check of its digest.

        Raises:
            IntegrityError: it is damaged, or its tiles are not those of the index.
            StorageError: the store cannot be reached.
        """
        shard, start = self.manifest.shards[number], self.shard_starts[number]
        height, width = self.manifest.height, self.manifest.width
        with _damage_explained(self.folder):
            table = self.folder.get_table(shard.key, sha256=shard.sha256, schema=_SHARD, rows=shard.tiles)
            ids = tuple(table["id"].to_pylist())
            images = _matrix(table["image"], height * width).reshape(-1, height, width)
            found = TileShard(ids, images, _matrix(table["mask"], -(-height * width // 8)))
            here = slice(start, start + shard.tiles)
            salt = np.bitwise_count(found.mask_bits).sum(axis=1, dtype=np.int64)
            if ids != self.ids[here] or (salt != self.salt[here]).any():
                raise IntegrityError(f"the tiles of {shard.key} are not those of its index")
        return found

    def shards(self) -> Iterator[TileShard]:
        """One shard after another; with the last one the digest of all tiles is checked.

        Raises:
            IntegrityError: a shard is damaged, or the tiles are not those of the manifest.
            StorageError: the store cannot be reached.
        """
        content = ContentDigest()
        for number in range(len(self.manifest.shards)):
            shard = self.read_shard(number)
            content.add(shard.ids, tile_digests(shard))
            yield shard
        manifest = self.manifest
        with _damage_explained(self.folder):
            if content.hexdigest(manifest.height, manifest.width, manifest.pixel_range) != manifest.digest:
                raise IntegrityError("its tiles are not those of its manifest")

    def tiles(self) -> LabelledTiles:
        """All tiles in memory, for small data sets.

        Raises:
            as `shards`.
        """
        shape = (self.manifest.height, self.manifest.width)
        images = np.empty((len(self), *shape), np.uint8)
        masks = np.empty((len(self), *shape), np.uint8)
        for start, shard in zip(self.shard_starts, self.shards(), strict=True):
            images[start : start + len(shard)] = shard.images
            masks[start : start + len(shard)] = shard.masks()
        return LabelledTiles(self.ids, images, masks)


def read_manifest(folder: Store) -> DatasetManifest:
    """The manifest of the packed data set in a folder.

    Raises:
        as `PackedDataset.open`.
    """
    with _damage_explained(folder):
        record = folder.get_json(MANIFEST)
        # First, because another format may have other fields.
        found = record.get("format", FORMAT) if isinstance(record, dict) else FORMAT
        if found != FORMAT:
            raise DataError(
                f"{folder.uri} is packed in format {excerpt(found)}, not {FORMAT}; pack the raw tiles again"
            )
        return from_record(DatasetManifest, record)


@contextmanager
def _damage_explained(folder: Store) -> Iterator[None]:
    """Turn what the body raises about a damaged packed data set into an IntegrityError with the remedy."""
    try:
        yield
    except (IntegrityError, KeyError, TypeError, ValueError) as error:
        remedy = "delete it and train from the raw files, which packs them again"
        raise IntegrityError(f"packed data set {folder.uri} is damaged ({error}); {remedy}") from error


def _read_index(folder: Store, manifest: DatasetManifest) -> TileIndex:
    """The index, after a check of what everyone relies on."""
    table = folder.get_table(INDEX, sha256=manifest.index, schema=_INDEX, rows=manifest.tiles)
    ids = tuple(table["id"].to_pylist())
    salt, same_mask = (table[name].to_numpy() for name in ("salt", "same_mask"))
    area = manifest.height * manifest.width
    if not all(a < b for a, b in pairwise(ids)):
        raise IntegrityError(f"the ids in {INDEX} do not ascend")
    if ((salt < 0) | (salt > area) | (same_mask < 0) | (same_mask > np.arange(len(ids)))).any():
        raise IntegrityError(f"{INDEX} has numbers that no tile can have")
    return TileIndex(ids, salt, same_mask, area)


def _column(rows: NDArray[np.uint8]) -> pa.Array:
    """A matrix [n, width] as a column of byte strings, which are not copied one by one."""
    tiles, width = rows.shape
    offsets = np.arange(tiles + 1, dtype=np.int32) * np.int32(width)
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(), tiles, [None, pa.py_buffer(offsets), data])


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """A column of byte strings of one length as [n, width]; the bytes stay where they are, and are read-only."""
    if column.length() == 0:
        return np.empty((0, width), np.uint8)
    array = pa.concat_arrays(column.chunks)
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    if (np.diff(offsets) != width).any():
        raise IntegrityError(f"a row does not have {width} bytes")
    return np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, width)
