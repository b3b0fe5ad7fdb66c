"""Packed data sets come back bit for bit, are found again without decoding, and damage to them is reported."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import saltray.data.packing
from saltray.data.packing import (
    DatasetManifest,
    DatasetSize,
    dataset_size,
    load_all_images,
    load_tiles,
    pack,
    packed_tiles,
)
from saltray.data.pixel_range import PixelRange
from saltray.data.statistics import statistics_of
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError, IntegrityError
from saltray.records import to_record
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .mini import HEIGHT, WIDTH, Mini, put, upload, zip_folder

# Of the tiles of `Mini`. Stored manifests have such digests, so they may never change.
DIGEST = "247e9f55419670b3d78e2ad7427e4f61e5d2dade0e8f1f46a374dde99565c465"


def check_same(tiles: LabelledTiles, mini: Mini) -> None:
    assert tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(tiles.images, mini.images)
    np.testing.assert_array_equal(tiles.masks, mini.masks)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def packed(folder: Path, store: Store) -> Store:
    """The folder of the packed small data set, whose raw files are in `folder`."""
    return store.sub(f"datasets/{pack(str(folder), store).name}")


def snapshot(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list()}


def test_tiles_come_back_from_any_source(any_source_uri: str, mini: Mini, store: Store) -> None:
    tiles, manifest = load_tiles(any_source_uri, store)
    check_same(tiles, mini)
    assert manifest.digest == DIGEST
    before = snapshot(store)
    again, manifest_again = load_tiles(any_source_uri, store)
    check_same(again, mini)
    assert manifest_again == manifest
    assert snapshot(store) == before


def test_all_images_of_raw_files_and_the_labelled_ones_of_a_packed_set(folder: Path, mini: Mini, store: Store) -> None:
    raw = load_all_images(str(folder), store)
    assert (len(raw.tiles), raw.notes) == (17, ())
    assert not list(store.list())
    name = pack(str(folder), store).name
    packed = load_all_images(f"datasets/{name}", store)
    assert type(packed.tiles) is Tiles
    assert packed.tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(packed.tiles.images, mini.images)
    assert packed.notes == (
        f"packed, with labelled tiles alone; to use its test images, too, name the raw one ({folder})",
    )
    put(folder / f"test/images/{mini.test_ids[0]}.png", 255 - mini.test_images[0])
    assert len({raw.digest, packed.digest, load_all_images(str(folder), store).digest}) == 3


def test_tiles_come_back_from_any_store(any_store_uri: str, folder: Path, mini: Mini) -> None:
    store = open_store(any_store_uri)
    manifest = pack(str(folder), store)
    assert store.folders("datasets") == [manifest.name]
    for uri in (str(folder), f"datasets/{manifest.name}", f"{store.uri}/datasets/{manifest.name}"):
        tiles, loaded = load_tiles(uri, store)
        check_same(tiles, mini)
        assert loaded == manifest


def test_tiles_are_found_by_their_digest(any_store_uri: str, folder: Path, mini: Mini, tmp_path: Path) -> None:
    store = open_store(any_store_uri)
    assert packed_tiles(DIGEST, str(tmp_path / "gone"), store) is None
    manifest = pack(str(folder), store)
    store.put("datasets/a-damaged-one/manifest.json", b"{")
    store.put("datasets/one-that-is-being-packed/part-00000.parquet", b"")
    found = packed_tiles(DIGEST, str(tmp_path / "gone"), store)
    assert found is not None
    check_same(found, mini)
    assert packed_tiles("0" * 64, f"datasets/{manifest.name}", store) is None
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    found = packed_tiles(DIGEST, f"{store.uri}/datasets/{manifest.name}", elsewhere)
    assert found is not None
    check_same(found, mini)
    store.put(f"datasets/{manifest.name}/part-00000.parquet", b"damaged")
    with pytest.raises(IntegrityError, match=r"packed data set .* is damaged .*delete it and train"):
        packed_tiles(DIGEST, str(folder), store)


def test_manifest_json(folder: Path, mini: Mini, packed: Store) -> None:
    tiles = LabelledTiles(tuple(mini.ids), mini.images, mini.masks)
    statistics = to_record(statistics_of(tiles))
    assert statistics["train_tiles"] == 12
    shard = "part-00000.parquet"
    assert packed.get_json("manifest.json") == {
        "format": 1,
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


def test_shards_of_limited_size(folder: Path, mini: Mini, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.packing, "SHARD_BYTES", 5 * 9 * 13 * 9 // 8)
    manifest = pack(str(folder), store)
    assert [shard.tiles for shard in manifest.shards] == [5, 5, 2]
    check_same(load_tiles(f"datasets/{manifest.name}", store)[0], mini)


def test_digest_is_that_of_the_tiles(folder: Path, mini: Mini, store: Store, tmp_path: Path, s3_server: str) -> None:
    (shuffled := tmp_path / "shuffled").mkdir()
    for path in sorted(folder.rglob("*"), key=lambda path: hashlib.md5(path.name.encode()).digest()):
        if path.is_file():
            (shuffled / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, shuffled / path.relative_to(folder))
    uris = [str(folder), str(shuffled), str(zip_folder(folder, tmp_path / "data.zip"))]
    uris.append(upload(folder, f"s3://saltray-test/{tmp_path.name}"))
    assert {load_tiles(uri, store)[1].digest for uri in uris} == {DIGEST}
    flipped = mini.masks.copy()
    flipped[1, 0, 0] ^= 1
    put(folder / f"train/masks/{mini.ids[1]}.png", flipped[1])
    (folder / "train.csv").unlink()
    assert load_tiles(str(folder), store)[1].digest != DIGEST


def test_name_depends_on_the_content_and_not_on_times(folder: Path, mini: Mini, store: Store) -> None:
    first = pack(str(folder), store).name
    assert first.startswith("raw-")
    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    assert pack(str(folder), store).name == first
    (folder / "test/images/ffffff0000.png").unlink()  # test images are not packed
    assert pack(str(folder), store).name == first
    put(folder / f"train/images/{mini.ids[2]}.png", mini.images[2] // 2)
    assert pack(str(folder), store).name != first


@pytest.mark.parametrize(("name", "plain"), [("Salz & Öl", "Salz-l"), ("...", "tiles"), ("x" * 200, "x" * 60)])
def test_name_is_plain(name: str, plain: str, folder: Path, store: Store) -> None:
    assert pack(str(folder.rename(folder.with_name(name))), store).name.rpartition("-")[0] == plain


def deepen(folder: Path, mini: Mini, top: int) -> Path:
    """Training images of 16 bits with values up to `top`."""
    for tile, pixels in zip(mini.ids, mini.images, strict=True):
        put(folder / f"train/images/{tile}.png", np.round(pixels / 255 * top).astype(np.uint16))
    return folder


def test_deep_images_are_packed_with_their_range(folder: Path, mini: Mini, store: Store) -> None:
    digests = {DIGEST}
    for top in (4095, 65535):
        tiles, manifest = load_tiles(str(deepen(folder, mini, top)), store)
        check_same(tiles, mini)
        assert manifest.pixel_range == PixelRange(bits=16, maximum=top)
        assert manifest.notes == (f"images: {manifest.pixel_range}",)
        assert load_tiles(str(folder), store)[1] == manifest
        digests.add(manifest.digest)
    assert len(digests) == 3  # the same tiles, but of another meaning to an ensemble


def test_the_range_is_part_of_what_the_digest_checks(folder: Path, mini: Mini, store: Store) -> None:
    packed = store.sub(f"datasets/{pack(str(deepen(folder, mini, 4095)), store).name}")
    record = packed.get_json("manifest.json")
    packed.put_json("manifest.json", record | {"pixel_range": {"bits": 16, "maximum": 4094}})
    check_damaged(folder, store, "not those of its manifest")


def test_data_sets_that_were_packed_without_a_range_are_still_read(packed: Store, store: Store, mini: Mini) -> None:
    record = packed.get_json("manifest.json")
    del record["pixel_range"], record["notes"]
    packed.put_json("manifest.json", record)
    tiles, manifest = load_tiles(packed.uri, store)
    check_same(tiles, mini)
    assert (manifest.pixel_range, manifest.notes) == (None, ())


def test_deep_images_that_were_packed_without_a_range_are_packed_anew(folder: Path, mini: Mini, store: Store) -> None:
    deepen(folder, mini, 4095)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saltray.data.packing, "decode_image", lambda data: mini.images[0])
        before = pack(str(folder), store).name  # the name that it had then
    old = store.sub(f"datasets/{before}")
    record = old.get_json("manifest.json")
    del record["pixel_range"], record["notes"]
    old.put_json("manifest.json", record)
    manifest = pack(str(folder), store)
    assert manifest.name != before
    assert manifest.pixel_range == PixelRange(bits=16, maximum=4095)


def test_packed_source_is_not_decoded_again(
    folder: Path, packed: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saltray.data.packing, "inspect", None)  # decoding would fail
    load_tiles(str(folder), store)


def test_problems_are_reported_and_nothing_is_packed(folder: Path, mini: Mini, store: Store) -> None:
    for tile in mini.ids[:3]:
        (folder / f"train/masks/{tile}.png").write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        load_tiles(str(folder), store)
    assert len(caught.value.problems) == 3
    assert not list(store.list())


def test_size_of_a_raw_data_set_needs_one_image(folder: Path, mini: Mini, store: Store) -> None:
    for tile in mini.ids[1:]:
        (folder / f"train/images/{tile}.png").write_bytes(b"broken")
    size = dataset_size(str(folder), store)
    assert size == DatasetSize(12, HEIGHT, WIDTH)
    assert size.packed_bytes == 2 * 12 * HEIGHT * WIDTH
    assert not list(store.list())


def test_size_of_a_packed_data_set_needs_its_manifest(packed: Store, store: Store) -> None:
    packed.put("part-00000.parquet", b"not read")
    for uri in (f"datasets/{packed.uri.rpartition('/')[2]}", packed.uri):
        assert dataset_size(uri, store) == DatasetSize(12, HEIGHT, WIDTH)


def test_a_data_set_without_manifest_is_packed_again(folder: Path, mini: Mini, packed: Store, store: Store) -> None:
    packed.delete("manifest.json")
    packed.put("part-00000.parquet", b"half")
    with pytest.raises(DataError, match="no training tiles"):
        load_tiles(packed.uri, store)
    check_same(load_tiles(str(folder), store)[0], mini)


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
        (lambda table: table.take(list(range(11, -1, -1))), "not those of its manifest"),
        (lambda table: table.set_column(0, "id", [[f"x{n:02}" for n in range(12)]]), "not those of its manifest"),
        (lambda table: table.set_column(0, "id", pa.array([None] * 12, pa.string())), "not those of its manifest"),
        (lambda table: table.set_column(1, "image", pa.array([b"short"] * 12)), "117 bytes"),
        (lambda table: table.set_column(1, "image", pa.array([None] * 12, pa.binary())), ""),
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
        (lambda record: {"format": 1}, "name is missing"),
        (lambda record: {name: value for name, value in record.items() if name != "format"}, "format is missing"),
        (lambda record: record | {"height": "9"}, 'height is "9"'),
        (lambda record: record | {"height": 0}, "height is 0; it should be greater than or equal to 1"),
        (lambda record: record | {"width": 10**6}, "width is 1000000; it should be less than"),
        (lambda record: record | {"tiles": -1}, "tiles is -1; it should be greater than"),
        (lambda record: record | {"width": 9, "height": 13}, "not those of its manifest"),
        (lambda record: record | {"digest": "0" * 64}, "not those of its manifest"),
        (lambda record: record | {"parts": []}, ""),
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


def test_a_foreign_manifest_beside_raw_files_is_ignored(folder: Path, mini: Mini, store: Store) -> None:
    (folder / "manifest.json").write_text('{"not": "ours"}')
    check_same(load_tiles(str(folder), store)[0], mini)


def test_another_format_is_refused_whatever_its_fields(packed: Store, store: Store) -> None:
    for found, told in ((99, "99"), ("\x1b[2J", r'"\\u001b\[2J"'), ("x" * 10_000, '"x{79}...')):
        packed.put_json("manifest.json", {"format": found, "shape": [9, 13]})
        with pytest.raises(DataError, match=f"is packed in format {told}, not 1; pack the raw tiles again"):
            load_tiles(packed.uri, store)


def test_manifest_is_a_record(packed: Store) -> None:
    manifest = packed.get_record("manifest.json", DatasetManifest)
    before = packed.get("manifest.json")
    packed.put_record("manifest.json", manifest)
    assert packed.get("manifest.json") == before
