"""The test images of a data set, for training without masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saltray.data import unlabelled
from saltray.data.packing import pack
from saltray.data.unlabelled import UnlabelledImages, find_unlabelled
from saltray.errors import ConfigError, DataError
from saltray.storage.uri import open_store

from .mini import Mini, put, rgb


def find(uri: Path | str, tmp_path: Path, *, of: Path | str | None = None) -> UnlabelledImages:
    store = open_store(str(tmp_path / "store"))
    return find_unlabelled(str(uri), store, pack(str(of or uri), store))


def test_the_test_images_of_each_kind_of_source(any_source_uri: str, mini: Mini, tmp_path: Path) -> None:
    found = find(any_source_uri, tmp_path)
    assert len(found) == 5
    (shard,) = found.shards()
    assert shard.ids == tuple(f"test/{tile}" for tile in mini.test_ids)
    np.testing.assert_array_equal(shard.images, mini.test_images)


def test_a_shard_at_a_time_in_the_order_of_the_ids(folder: Path, tmp_path: Path, monkeypatch: Any, mini: Mini) -> None:
    whole = find(folder, tmp_path)
    monkeypatch.setattr(unlabelled, "SHARD_TILES", 2)
    found = find(folder, tmp_path)
    assert found.digest == whole.digest
    shards = list(found.shards())
    assert [len(shard) for shard in shards] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([shard.images for shard in shards]), mini.test_images)


def test_the_digest_is_of_ids_and_pixels(folder: Path, tmp_path: Path, mini: Mini) -> None:
    before = find(folder, tmp_path).digest
    first = folder / f"test/images/{mini.test_ids[0]}.png"
    put(first, mini.test_images[0])  # grey instead of RGB: the same pixels
    assert find(folder, tmp_path).digest == before
    put(first, rgb(mini.test_images[1]))
    other = find(folder, tmp_path).digest
    first.rename(first.with_name("0.png"))
    assert len({before, other, find(folder, tmp_path).digest}) == 3


def test_every_image_that_cannot_be_used_is_named(folder: Path, tmp_path: Path, mini: Mini) -> None:
    small, broken = (folder / f"test/images/{tile}.png" for tile in mini.test_ids[:2])
    put(small, mini.test_images[0][:5])
    broken.write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        find(folder, tmp_path)
    small_told, broken_told = sorted(caught.value.problems, key=lambda text: small.name not in text)
    assert small_told == f"test/images/{small.name}: 5x13 pixels, but the labelled tiles have 9x13; crop or pad it"
    assert broken_told.startswith(f"test/images/{broken.name}: ")


def test_an_image_that_was_damaged_since_is_refused(folder: Path, tmp_path: Path, mini: Mini) -> None:
    found = find(folder, tmp_path)
    (folder / f"test/images/{mini.test_ids[0]}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="1 problem"):
        list(found.shards())


def test_16_bit_images_are_scaled_as_the_labelled_ones(folder: Path, tmp_path: Path, mini: Mini) -> None:
    for tile, image in zip(mini.ids, mini.images, strict=True):
        put(folder / f"train/images/{tile}.png", image.astype(np.uint16) * 16)
    for tile, image in zip(mini.test_ids, mini.test_images // 2, strict=True):
        put(folder / f"test/images/{tile}.png", image.astype(np.uint16) * 16)
    (shard,) = find(folder, tmp_path).shards()
    top = int(mini.images.max())
    np.testing.assert_allclose(shard.images, (mini.test_images // 2) * 255.0 / top, atol=0.51)


def test_a_packed_data_set_has_none(folder: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    packed = f"datasets/{pack(str(folder), store).name}"
    with pytest.raises(ConfigError, match=f"{packed} is packed, with the labelled tiles alone.*--data"):
        find(packed, tmp_path, of=folder)


def test_a_data_set_without_a_test_part(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "test/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no test images in .*add test/images"):
        find(folder, tmp_path)
