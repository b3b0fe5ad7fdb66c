"""A packed data set is read shard by shard, and whatever is damaged of it is reported."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import saltray.data.packing
from saltray.data.packed import DatasetManifest, PackedDataset
from saltray.data.packing import load_tiles, open_packed, pack
from saltray.data.statistics import statistics_of
from saltray.data.tiles import LabelledTiles, TileIndex
from saltray.errors import DataError, IntegrityError
from saltray.records import to_record
from saltray.storage.base import Store

from .mini import DIGEST, HEIGHT, WIDTH, Mini, deepen


def test_manifest_json(folder: Path, mini: Mini, packed: Store) -> None:
    tiles = LabelledTiles(tuple(mini.ids), mini.images, mini.masks)
    statistics = to_record(statistics_of(tiles))
    assert statistics["train_tiles"] == 12
    shard = "part-00000.parquet"
    assert packed.get_json("manifest.json") == {
        "format": 2,
        "name": packed.uri.rpartition("/")[2],
        "source": str(folder),
        "digest": DIGEST,
        "tiles": 12,
        "height": HEIGHT,
        "width": WIDTH,
        "statistics": statistics,
        "pixel_range": {"bits": 8, "maximum": 255},
        "notes": [],
        "parts": [{"key": shard, "tiles": 12, "sha256": hashlib.sha256(packed.get(shard)).hexdigest()}],
        "index": hashlib.sha256(packed.get("index.parquet")).hexdigest(),
    }


def test_parquet_has_raw_pixels_and_bits(mini: Mini, packed: Store) -> None:
    table = packed.get_table("part-00000.parquet")
    assert table.schema.names == ["id", "image", "mask"]
    assert table.schema.types == [pa.string(), pa.binary(), pa.binary()]
    assert table["id"].to_pylist() == mini.ids
    assert table["image"].to_pylist() == [image.tobytes() for image in mini.images]
    for row, mask in zip(table["mask"].to_pylist(), mini.masks, strict=True):
        bits = "".join(f"{byte:08b}" for byte in row)
        assert bits == "".join(map(str, mask.ravel().tolist())).ljust(-(-9 * 13 // 8) * 8, "0")


def test_index_has_what_a_split_needs(mini: Mini, packed: Store) -> None:
    data, own = PackedDataset.open(packed), TileIndex.of(mini.ids, mini.masks)
    assert (data.ids, data.index.area) == (tuple(mini.ids), HEIGHT * WIDTH)
    assert data.salt.tolist() == [int(mask.sum()) for mask in mini.masks]
    np.testing.assert_array_equal(data.index.same_mask, own.same_mask)
    packed.put("part-00000.parquet", b"not read")
    assert PackedDataset.open(packed).ids == data.ids


def test_shards_are_read_one_at_a_time(folder: Path, mini: Mini, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.packing, "SHARD_BYTES", 5 * 9 * 13 * 9 // 8)
    data = open_packed(str(folder), store)
    assert (len(data), data.shard_starts) == (12, (0, 5, 10))
    assert [shard.tiles for shard in data.manifest.shards] == [5, 5, 2]
    assert data.manifest.digest == DIGEST  # whatever the shards
    for number, shard in enumerate(data.shards()):
        inside = slice(5 * number, 5 * number + 5)
        assert shard.ids == tuple(mini.ids[inside])
        np.testing.assert_array_equal(shard.images, mini.images[inside])
        np.testing.assert_array_equal(shard.masks(), mini.masks[inside])
        np.testing.assert_array_equal(shard.mask_bits, np.packbits(mini.masks[inside].reshape(len(shard), -1), axis=1))
    np.testing.assert_array_equal(data.read_shard(2).images, mini.images[10:])
    data.folder.put("part-00001.parquet", b"damaged")
    assert data.read_shard(0).ids == tuple(mini.ids[:5])
    with pytest.raises(IntegrityError, match=r"part-00001\.parquet: its SHA-256"):
        data.read_shard(1)


def test_digest_is_of_ids_images_masks_and_size(mini: Mini) -> None:
    content = hashlib.sha256()
    for tile, image, mask in zip(mini.ids, mini.images, mini.masks, strict=True):
        pixels = hashlib.blake2b(image.tobytes() + np.packbits(mask).tobytes(), digest_size=32)
        content.update(f'"{tile}"'.encode() + pixels.digest())
    content.update(f"[{HEIGHT}, {WIDTH}]".encode())
    assert content.hexdigest() == DIGEST


def check_damaged(folder: Path, store: Store, reason: str) -> None:
    with pytest.raises(IntegrityError, match=r"data set .*datasets/raw-\w+ is damaged .*; delete it and train") as e:
        load_tiles(str(folder), store)
    assert reason in str(e.value)
    assert "\n" not in str(e.value)


def test_a_damaged_shard_is_reported(folder: Path, packed: Store, store: Store) -> None:
    data = packed.get("part-00000.parquet")
    packed.put("part-00000.parquet", data[:100] + bytes([data[100] ^ 1]) + data[101:])
    check_damaged(folder, store, "SHA-256")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.slice(1), "11 rows instead of 12"),
        (lambda table: table.take(list(range(11, -1, -1))), "not those of its index"),
        (lambda table: table.set_column(0, "id", [[f"x{n:02}" for n in range(12)]]), "not those of its index"),
        (lambda table: table.set_column(0, "id", pa.array([None] * 12, pa.string())), "column id has nulls"),
        (lambda table: table.set_column(1, "image", pa.array([b"short"] * 12)), "117 bytes"),
        (lambda table: table.set_column(1, "image", pa.array([None] * 12, pa.binary())), "column image has nulls"),
        (lambda table: table.set_column(1, "image", pa.array([bytes(117)] * 12)), "not those of its manifest"),
        (lambda table: table.set_column(2, "mask", pa.array([bytes(15)] * 12)), "not those of its index"),
        (lambda table: table.drop_columns("mask"), "mask"),
    ],
)
def test_other_tiles_under_a_matching_checksum_are_reported(
    change: Callable[[pa.Table], pa.Table], reason: str, folder: Path, packed: Store, store: Store
) -> None:
    manifest = packed.get_json("manifest.json")
    table = change(packed.get_table("part-00000.parquet"))
    manifest["parts"][0]["sha256"] = packed.put_table("part-00000.parquet", table)
    packed.put_json("manifest.json", manifest)
    check_damaged(folder, store, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: {"format": 2}, "name is missing"),
        (lambda record: {name: value for name, value in record.items() if name != "format"}, "format is missing"),
        (lambda record: record | {"height": "9"}, 'height is "9"'),
        (lambda record: record | {"height": 0}, "height is 0; it should be greater than or equal to 1"),
        (lambda record: record | {"width": 10**6}, "width is 1000000; it should be less than"),
        (lambda record: record | {"tiles": -1}, "tiles is -1; it should be greater than"),
        (lambda record: record | {"tiles": 13}, "its shards do not have 13 tiles"),
        (lambda record: record | {"index": "0" * 64}, "SHA-256"),
        (lambda record: record | {"width": 9, "height": 13}, "not those of its manifest"),
        (lambda record: record | {"digest": "0" * 64}, "not those of its manifest"),
        (lambda record: record | {"parts": []}, "its shards do not have 12 tiles"),
        (lambda record: record | {"parts": [{"key": "part-00000.parquet"}]}, "tiles is missing"),
        (lambda record: record | {"statistics": {}}, "is missing"),
        (lambda record: record | {"colour": "grey"}, "colour is unknown"),
        (lambda record: 7, ""),
        (lambda record: [1, 2], ""),
    ],
)
def test_a_damaged_manifest_is_reported(
    change: Callable[[dict[str, Any]], Any], reason: str, folder: Path, packed: Store, store: Store
) -> None:
    packed.put_json("manifest.json", change(packed.get_json("manifest.json")))
    check_damaged(folder, store, reason)


def test_a_manifest_that_is_not_json_is_reported(folder: Path, packed: Store, store: Store) -> None:
    packed.put("manifest.json", b"{")
    check_damaged(folder, store, "not JSON")


def test_another_format_is_refused_whatever_its_fields(packed: Store, store: Store) -> None:
    for found, told in ((1, "1"), (99, "99"), ("\x1b[2J", r'"\\u001b\[2J"'), ("x" * 10_000, '"x{79}...')):
        packed.put_json("manifest.json", {"format": found, "shape": [9, 13]})
        with pytest.raises(DataError, match=f"is packed in format {told}, not 2; pack the raw tiles again"):
            load_tiles(packed.uri, store)


def test_manifest_is_a_record(packed: Store) -> None:
    manifest = packed.get_record("manifest.json", DatasetManifest)
    before = packed.get("manifest.json")
    packed.put_record("manifest.json", manifest)
    assert packed.get("manifest.json") == before


def test_the_range_is_part_of_what_the_digest_checks(folder: Path, mini: Mini, store: Store) -> None:
    packed = store.sub(f"datasets/{pack(str(deepen(folder, mini, 4095)), store).name}")
    record = packed.get_json("manifest.json")
    packed.put_json("manifest.json", record | {"pixel_range": {"bits": 16, "maximum": 4094}})
    check_damaged(folder, store, "not those of its manifest")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.slice(1), "11 rows instead of 12"),
        (lambda table: table.take([1, 0, *range(2, 12)]), "do not ascend"),
        (lambda table: table.set_column(1, "salt", pa.array([-1] * 12)), "numbers that no tile can have"),
        (lambda table: table.set_column(1, "salt", pa.array([118] * 12)), "numbers that no tile can have"),
        (lambda table: table.set_column(2, "same_mask", pa.array([11] * 12)), "numbers that no tile can have"),
        (lambda table: table.set_column(2, "same_mask", pa.array([0.5] * 12)), "no column same_mask of int64"),
        (lambda table: table.set_column(1, "salt", pa.array([1] * 12)), "not those of its index"),
    ],
)
def test_a_damaged_index_is_reported(
    change: Callable[[pa.Table], pa.Table], reason: str, folder: Path, packed: Store, store: Store
) -> None:
    manifest = packed.get_json("manifest.json")
    table = change(packed.get_table("index.parquet"))
    packed.put_json("manifest.json", manifest | {"index": packed.put_table("index.parquet", table)})
    check_damaged(folder, store, reason)
