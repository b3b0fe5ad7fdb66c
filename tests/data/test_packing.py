"""Packed data sets come back bit for bit, and are found again without decoding."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

import saltray.data.packing
import saltray.data.shards
from saltray.data.all_images import load_all_images
from saltray.data.packing import (
    DatasetSize,
    dataset_size,
    load_tiles,
    pack,
    packed_tiles,
)
from saltray.data.pixel_range import PixelRange
from saltray.errors import DataError, IntegrityError
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .mini import DIGEST, HEIGHT, WIDTH, Mini, check_same, deepen, put, upload, zip_folder


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
    check_same(found.tiles(), mini)
    assert packed_tiles("0" * 64, f"datasets/{manifest.name}", store) is None
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    found = packed_tiles(DIGEST, f"{store.uri}/datasets/{manifest.name}", elsewhere)
    assert found is not None
    check_same(found.tiles(), mini)
    store.put(f"datasets/{manifest.name}/index.parquet", b"damaged")
    with pytest.raises(IntegrityError, match=r"packed data set .* is damaged .*delete it and train"):
        packed_tiles(DIGEST, str(folder), store)


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


def test_what_another_format_has_packed_is_packed_anew(folder: Path, mini: Mini, store: Store) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (saltray.data.packing, saltray.data.shards):
            patch.setattr(module, "FORMAT", 1)
        with pytest.raises(DataError, match="is packed in format 1, not 2"):
            pack(str(folder), store)
    tiles, manifest = load_tiles(str(folder), store)
    check_same(tiles, mini)
    assert manifest.format == 2


@pytest.mark.parametrize(("name", "plain"), [("Salz & Öl", "Salz-l"), ("...", "tiles"), ("x" * 200, "x" * 60)])
def test_name_is_plain(name: str, plain: str, folder: Path, store: Store) -> None:
    assert pack(str(folder.rename(folder.with_name(name))), store).name.rpartition("-")[0] == plain


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
    assert size.packed_bytes == 12 * (HEIGHT * WIDTH + -(-HEIGHT * WIDTH // 8))
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


def test_a_foreign_manifest_beside_raw_files_is_ignored(folder: Path, mini: Mini, store: Store) -> None:
    (folder / "manifest.json").write_text('{"not": "ours"}')
    check_same(load_tiles(str(folder), store)[0], mini)


def test_a_packed_data_set_that_may_have_been_meant_is_named(packed: Store, store: Store) -> None:
    name = packed.uri.rpartition("/")[2]
    for read in (dataset_size, pack, load_all_images):
        with pytest.raises(DataError, match=f"^no packed data set {name}x in {store.uri}; .*; did you mean {name}"):
            read(f"datasets/{name}x", store)
        with pytest.raises(DataError, match="there are none yet; name the raw tiles"):
            read("datasets/x", store.sub("other"))


def test_a_folder_of_raw_tiles_may_be_in_one_called_datasets(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, folder.parent / "datasets/salt")
    monkeypatch.chdir(folder.parent)
    assert dataset_size("datasets/salt", store) == dataset_size(str(folder), store)
