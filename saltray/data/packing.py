"""Packed data sets: labelled tiles as Parquet shards of raw pixels, a hundred times quicker to read than PNG files.

    datasets/<name>/part-00000.parquet ...    columns id, image (H*W bytes, C order), mask (H*W bits, C order)
    datasets/<name>/manifest.json             written last: without it there is no data set

The name is made from the source and the fingerprint of its files, so an unchanged source is found without decoding.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.data.inspection import inspect
from saltray.data.layout import find_layout, refuse
from saltray.data.raw import list_images, read_image
from saltray.data.source import Source
from saltray.data.statistics import statistics_of
from saltray.data.tiles import Tiles
from saltray.errors import DataError, IntegrityError
from saltray.storage.base import Store
from saltray.storage.names import open_store

FORMAT = 1
SHARD_BYTES = 64 * 2**20
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Dataset:
    """A packed data set: its name below datasets/ of the store, and its manifest."""

    name: str
    manifest: dict[str, Any]


@dataclass(frozen=True)
class DatasetSize:
    """How much the labelled part of a data set is."""

    count: int
    height: int
    width: int

    @property
    def packed_bytes(self) -> int:
        """Bytes of all images and masks as training holds them, a byte a pixel each."""
        return 2 * self.count * self.height * self.width


def dataset_size(uri: str, store: Store) -> DatasetSize:
    """How many labelled tiles a data set has, and their size by the first of them; a raw one is listed, not read.

    Args:
        uri: as for `load_tiles`.
        store: where packed data sets are kept; nothing is written there.

    Raises:
        DataError: there are no tiles, or the first is none.
        StorageError: the source or the store cannot be reached.
    """
    if home := _packed_at(uri, store):
        manifest = _read_manifest(home)
        return DatasetSize(manifest["tiles"], manifest["height"], manifest["width"])
    names = list_images(uri, "train")
    height, width = read_image(uri, names[0]).shape
    return DatasetSize(len(names), height, width)


def pack(uri: str, store: Store) -> Dataset:
    """Pack the labelled part of a raw data set, unless it is packed already.

    Raises:
        DataError: anything is wrong with its labelled part or tables; `problems` lists every fault by file.
        StorageError: the source or the store cannot be reached.
    """
    source = Source(uri)
    name = f"{_clean(source.uri)}-{_fingerprint(source)[:12]}"
    home = store.sub(f"datasets/{name}")
    if not home.exists(MANIFEST):
        tiles = inspect(source, test=False).tiles
        manifest = {
            "format": FORMAT,
            "name": name,
            "source": source.uri,
            "digest": _digest(tiles),
            "tiles": len(tiles),
            "height": tiles.height,
            "width": tiles.width,
            "statistics": asdict(statistics_of(tiles)),
            "parts": list(_write_parts(tiles, home)),
        }
        home.put_json(MANIFEST, manifest)
    return Dataset(name, _read_manifest(home))


def load_tiles(uri: str, store: Store) -> tuple[Tiles, dict[str, Any]]:
    """The labelled tiles of a data set, and its manifest.

    Args:
        uri: a raw data set, which is packed into the store first; `datasets/NAME` of the store; or the URI of a packed
            data set's folder.
        store: where packed data sets are kept.

    Raises:
        DataError: a raw data set has faults; `problems` lists every one by file.
        IntegrityError: a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    home = _packed_at(uri, store) or store.sub(f"datasets/{pack(uri, store).name}")
    manifest = _read_manifest(home)
    return _read_parts(manifest, home), manifest


def _packed_at(uri: str, store: Store) -> Store | None:
    """The folder of a packed data set, if that is what the URI names."""
    if re.fullmatch(r"datasets/[^/]+", uri) and store.exists(f"{uri}/{MANIFEST}"):
        return store.sub(uri)
    if uri.lower().endswith(".zip"):
        return None
    folder = open_store(uri)
    return folder if folder.exists(MANIFEST) and folder.exists(_part_key(0)) else None


def _clean(uri: str) -> str:
    """The last part of a URI as a plain name."""
    name = re.sub(r"\.zip$", "", uri.rstrip("/").rpartition("/")[2], flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60] or "tiles"


def _fingerprint(source: Source) -> str:
    """SHA-256 over name, size and content tag of every file that packing reads; nothing is decoded."""
    problems: list[str] = []
    layout = find_layout(source, problems)
    refuse(source.uri, problems)
    entries = sorted([*layout.images.values(), *layout.masks.values(), *layout.tables.values()])
    with ThreadPoolExecutor(source.threads) as pool:
        tags = pool.map(source.content_tag, entries)
        record = [(entry.key, entry.size, tag) for entry, tag in zip(entries, tags, strict=True)]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _digest(tiles: Tiles) -> str:
    """SHA-256 over ids, size, pixels and masks, whatever files they came from."""
    assert tiles.masks is not None
    digest = hashlib.sha256(json.dumps([tiles.ids, tiles.height, tiles.width]).encode())
    digest.update(np.ascontiguousarray(tiles.images).data)
    digest.update(_bits(tiles.masks).data)
    return digest.hexdigest()


def _bits(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks [N, H, W] as rows of bits, padded to whole bytes."""
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


def _write_parts(tiles: Tiles, home: Store) -> Iterator[dict[str, Any]]:
    """Write the shards, and yield the manifest's entry of each."""
    assert tiles.masks is not None
    step = max(1, SHARD_BYTES // (tiles.height * tiles.width * 9 // 8))
    for part, start in enumerate(range(0, len(tiles), step)):
        chosen = slice(start, start + step)
        columns = {
            "id": tiles.ids[chosen],
            "image": [image.tobytes() for image in tiles.images[chosen]],
            "mask": [row.tobytes() for row in _bits(tiles.masks[chosen])],
        }
        schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("mask", pa.binary())])
        key = _part_key(part)
        yield {"key": key, "tiles": len(columns["id"]), "sha256": home.put_table(key, pa.table(columns, schema=schema))}


def _part_key(part: int) -> str:
    return f"part-{part:05d}.parquet"


@contextmanager
def _damage_explained(home: Store) -> Iterator[None]:
    """Say what to do where the body finds a packed data set damaged."""
    try:
        yield
    except (IntegrityError, KeyError, TypeError, ValueError) as error:
        remedy = "delete it and train from the raw files, which packs them anew"
        raise IntegrityError(f"packed data set {home.uri} is damaged ({error}); {remedy}") from error


def _read_manifest(home: Store) -> dict[str, Any]:
    with _damage_explained(home):
        manifest = dict(home.get_json(MANIFEST))
        if manifest["format"] == FORMAT:
            return manifest
    raise DataError(f"{home.uri} is packed in format {manifest['format']}, not {FORMAT}; pack the raw tiles anew")


def _read_parts(manifest: dict[str, Any], home: Store) -> Tiles:
    """Read every shard and check all digests."""
    with _damage_explained(home):
        height, width = int(manifest["height"]), int(manifest["width"])
        tables = [home.get_table(str(part["key"]), sha256=str(part["sha256"])) for part in manifest["parts"]]
        ids = [tile for table in tables for tile in table["id"].to_pylist()]
        shape = (len(ids), height, width)
        images = np.concatenate([_matrix(table["image"], height * width) for table in tables])
        bits = np.concatenate([_matrix(table["mask"], -(-height * width // 8)) for table in tables])
        masks = np.unpackbits(bits, axis=1, count=height * width)
        tiles = Tiles(tuple(ids), images.reshape(shape), masks.reshape(shape))
        if _digest(tiles) != manifest["digest"]:
            raise IntegrityError("its tiles are not those of its manifest")
    return tiles


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """A column of byte strings of one length as [N, width]."""
    rows: list[bytes] = column.to_pylist()
    if any(len(row) != width for row in rows):
        raise IntegrityError(f"a row has not {width} bytes")
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
