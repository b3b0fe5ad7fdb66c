"""Packed data sets come back bit for bit, are found again without decoding, and never lie."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import saltray.data.packing
from saltray.data.packing import load_tiles, pack
from saltray.data.summary import check
from saltray.data.tiles import Tiles
from saltray.errors import DataError, IntegrityError
from saltray.storage.base import Store
from saltray.storage.names import open_store

from .mini import Mini, put, upload, zip_folder


def same(tiles: Tiles, mini: Mini) -> bool:
    assert tiles.masks is not None
    assert tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(tiles.images, mini.images)
    np.testing.assert_array_equal(tiles.masks, mini.masks)
    return True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def snapshot(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list()}


def test_tiles_come_back_from_any_place(place: str, mini: Mini, store: Store) -> None:
    tiles, manifest = load_tiles(place, store)
    assert same(tiles, mini)
    before = snapshot(store)
    again, manifest_again = load_tiles(place, store)
    assert same(again, mini)
    assert manifest_again == manifest
    assert snapshot(store) == before


def test_any_store_holds_them(any_store_uri: str, folder: Path, mini: Mini) -> None:
    store = open_store(any_store_uri)
    dataset = pack(str(folder), store)
    assert store.folders("datasets") == [dataset.name]
    for uri in (str(folder), f"datasets/{dataset.name}", f"{store.uri}/datasets/{dataset.name}"):
        tiles, manifest = load_tiles(uri, store)
        assert same(tiles, mini)
        assert manifest == dataset.manifest


def test_manifest(folder: Path, mini: Mini, store: Store) -> None:
    manifest = pack(str(folder), store).manifest
    census = check(str(folder))
    assert (manifest["tiles"], manifest["height"], manifest["width"]) == (12, 9, 13)
    assert manifest["source"] == str(folder)
    assert {name: getattr(census, name) for name in manifest["statistics"]} == manifest["statistics"]
    (part,) = manifest["parts"]
    assert part["tiles"] == 12
    home = store.sub(f"datasets/{manifest['name']}")
    assert hashlib.sha256(home.get(part["key"])).hexdigest() == part["sha256"]


def test_parquet_holds_raw_pixels_and_bits(folder: Path, mini: Mini, store: Store) -> None:
    dataset = pack(str(folder), store)
    table = store.get_table(f"datasets/{dataset.name}/part-00000.parquet")
    assert table.schema.names == ["id", "image", "mask"]
    assert table.schema.types == [pa.string(), pa.binary(), pa.binary()]
    assert table["id"].to_pylist() == mini.ids
    assert table["image"].to_pylist() == [image.tobytes() for image in mini.images]
    for row, mask in zip(table["mask"].to_pylist(), mini.masks, strict=True):
        bits = "".join(f"{byte:08b}" for byte in row)
        assert bits == "".join(map(str, mask.ravel().tolist())).ljust(-(-9 * 13 // 8) * 8, "0")


def test_shards_of_limited_size(folder: Path, mini: Mini, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saltray.data.packing, "SHARD_BYTES", 5 * 9 * 13 * 9 // 8)
    dataset = pack(str(folder), store)
    assert [part["tiles"] for part in dataset.manifest["parts"]] == [5, 5, 2]
    assert same(load_tiles(f"datasets/{dataset.name}", store)[0], mini)


def test_digest_tells_the_tiles_and_not_their_place(
    folder: Path, mini: Mini, store: Store, tmp_path: Path, s3_server: str
) -> None:
    (shuffled := tmp_path / "shuffled").mkdir()
    for path in sorted(folder.rglob("*"), key=lambda path: hashlib.md5(path.name.encode()).digest()):
        if path.is_file():
            (shuffled / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, shuffled / path.relative_to(folder))
    places = [str(folder), str(shuffled), str(zip_folder(folder, tmp_path / "data.zip"))]
    places.append(upload(folder, f"s3://saltray-test/{tmp_path.name}"))
    assert len({load_tiles(uri, store)[1]["digest"] for uri in places}) == 1
    flipped = mini.masks.copy()
    flipped[1, 0, 0] ^= 1
    put(folder / f"train/masks/{mini.ids[1]}.png", flipped[1])
    (folder / "train.csv").unlink()
    assert load_tiles(str(folder), store)[1]["digest"] != load_tiles(str(shuffled), store)[1]["digest"]


def test_name_follows_the_content_and_not_the_times(folder: Path, mini: Mini, store: Store) -> None:
    first = pack(str(folder), store).name
    assert first.startswith("raw-")
    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    assert pack(str(folder), store).name == first
    (folder / "test/images/ffffff0000.png").unlink()  # no part of it
    assert pack(str(folder), store).name == first
    put(folder / f"train/images/{mini.ids[2]}.png", mini.images[2] // 2)
    assert pack(str(folder), store).name != first


@pytest.mark.parametrize(("name", "clean"), [("Salz & Öl", "Salz-l"), ("...", "tiles"), ("x" * 200, "x" * 60)])
def test_name_is_plain(name: str, clean: str, folder: Path, store: Store) -> None:
    assert pack(str(folder.rename(folder.with_name(name))), store).name.rpartition("-")[0] == clean


def test_packed_source_is_not_decoded_again(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tiles(str(folder), store)
    monkeypatch.setattr(saltray.data.packing, "inspect", None)  # decoding would fail
    load_tiles(str(folder), store)


def test_faults_are_told_and_nothing_is_packed(folder: Path, mini: Mini, store: Store) -> None:
    for tile in mini.ids[:3]:
        (folder / f"train/masks/{tile}.png").write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        load_tiles(str(folder), store)
    assert len(caught.value.problems) == 3
    assert not list(store.list())


def test_half_a_data_set_is_none(folder: Path, mini: Mini, store: Store) -> None:
    dataset = pack(str(folder), store)
    store.delete(f"datasets/{dataset.name}/manifest.json")
    store.put(f"datasets/{dataset.name}/part-00000.parquet", b"half")
    with pytest.raises(DataError, match="no training tiles"):
        load_tiles(f"{store.uri}/datasets/{dataset.name}", store)
    assert same(load_tiles(str(folder), store)[0], mini)


def test_damage_is_seen(folder: Path, mini: Mini, store: Store) -> None:
    home = store.sub(f"datasets/{pack(str(folder), store).name}")
    data, manifest = home.get("part-00000.parquet"), home.get_json("manifest.json")
    table = home.get_table("part-00000.parquet")

    def refused() -> str:
        with pytest.raises(
            IntegrityError, match=r"data set .*datasets/raw-\w+ is damaged .*; delete it and train from"
        ) as e:
            load_tiles(str(folder), store)
        assert "\n" not in str(e.value)
        return str(e.value)

    home.put("part-00000.parquet", data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert "SHA-256" in refused()
    # Other tiles under a right checksum of the file.
    for other in (table.slice(1), table.set_column(0, "id", [[f"x{tile}" for tile in mini.ids]])):
        manifest["parts"][0]["sha256"] = home.put_table("part-00000.parquet", other)
        home.put_json("manifest.json", manifest)
        assert "not those of its manifest" in refused()
    short = table.set_column(1, "image", pa.array([b"short"] * 12))
    manifest["parts"][0]["sha256"] = home.put_table("part-00000.parquet", short)
    home.put_json("manifest.json", manifest)
    assert "117 bytes" in refused()
    home.put_json("manifest.json", {"format": 1})
    assert "'height'" in refused()
    home.put_json("manifest.json", {"format": 1, "height": 9, "width": 13, "parts": []})
    refused()
    for odd in (b"{", b"7", b"[1, 2]", b"{}"):
        home.put("manifest.json", odd)
        refused()


def test_a_manifest_of_something_else(folder: Path, mini: Mini, store: Store) -> None:
    (folder / "manifest.json").write_text('{"not": "ours"}')
    assert same(load_tiles(str(folder), store)[0], mini)
    dataset = pack(str(folder), store)
    home = store.sub(f"datasets/{dataset.name}")
    home.put_json("manifest.json", dataset.manifest | {"format": 99})
    with pytest.raises(DataError, match="format 99, not 1"):
        load_tiles(f"datasets/{dataset.name}", store)
