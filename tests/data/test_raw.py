"""The same tiles come from every kind of source, as a whole or image by image."""

import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import saltray.data.raw
from saltray.data.pixel_range import PixelRange
from saltray.data.raw import list_images, read_all_images, read_image, read_tiles, shared_source
from saltray.data.source import Source
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError

from .mini import Mini, put, stems, zip_folder

EIGHT = PixelRange(bits=8, maximum=255)


def test_read_tiles(any_source_uri: str, mini: Mini) -> None:
    tiles = read_tiles(any_source_uri)
    assert type(tiles) is LabelledTiles
    assert tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(tiles.images, mini.images)
    np.testing.assert_array_equal(tiles.masks, mini.masks)
    test = read_tiles(any_source_uri, part="test")
    assert type(test) is Tiles
    assert test.ids == tuple(mini.test_ids)
    np.testing.assert_array_equal(test.images, mini.test_images)


def test_all_images_are_those_of_both_parts(any_source_uri: str, mini: Mini) -> None:
    tiles = read_all_images(any_source_uri)
    assert type(tiles) is Tiles
    assert tiles.ids == (*(f"test/{tile}" for tile in mini.test_ids), *(f"train/{tile}" for tile in mini.ids))
    np.testing.assert_array_equal(tiles.images, np.concatenate([mini.test_images, mini.images]))


def test_all_images_need_no_masks(folder: Path, mini: Mini) -> None:
    (folder / f"train/masks/{mini.ids[3]}.png").unlink()
    (folder / f"train/masks/{mini.ids[4]}.png").write_text("?")
    assert len(read_all_images(str(folder))) == 17
    shutil.rmtree(folder / "train/masks")
    assert len(read_all_images(str(folder))) == 17
    shutil.rmtree(folder / "train")
    assert len(read_all_images(str(folder))) == 5
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match=f"no images in {folder}"):
        read_all_images(str(folder))


def test_all_images_have_the_size_and_the_range_of_the_training_images(tmp_path: Path) -> None:
    put(tmp_path / "train/images/a.png", np.array([[0, 1000, 2000]], np.uint16))
    put(tmp_path / "test/images/a.png", np.array([[0, 500, 3000]], np.uint16))
    tiles = read_all_images(str(tmp_path))
    assert tiles.ids == ("test/a", "train/a")  # two tiles of one name
    assert tiles.images.tolist() == [[[0, 64, 255]], [[0, 128, 255]]]
    for name in ("b", "c"):
        put(tmp_path / f"test/images/{name}.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(DataError) as caught:
        read_all_images(str(tmp_path))
    assert caught.value.problems == tuple(
        f"test/images/{name}.png: 2x2 pixels, but most tiles have 1x3; crop or pad it" for name in ("b", "c")
    )


def test_read_image(any_source_uri: str, mini: Mini) -> None:
    source = Source(any_source_uri)
    names = list_images(source)
    assert stems(names) == mini.test_ids
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda name: read_image(source, name, scale=EIGHT).pixels, names * 3))
    np.testing.assert_array_equal(images, np.concatenate([mini.test_images] * 3))
    assert stems(list_images(source, part="train")) == mini.ids


def test_a_broken_test_image_does_not_affect_training(folder: Path, mini: Mini) -> None:
    (folder / "test/images/ffffff0000.png").write_text("?")
    assert read_tiles(str(folder)).ids == tuple(mini.ids)
    with pytest.raises(DataError, match="1 problem in"):
        read_tiles(str(folder), part="test")


def test_unlabelled_images_are_of_one_size(tmp_path: Path) -> None:
    for name, side in {"a": 5, "b": 4, "c": 4}.items():
        put(tmp_path / f"{name}.png", np.zeros((side, side), np.uint8))
    with pytest.raises(DataError) as caught:
        read_tiles(str(tmp_path), part="test")
    assert caught.value.problems == ("a.png: 5x5 pixels, but most tiles have 4x4; crop or pad it",)


def test_read_image_leaves_the_name_to_its_caller(folder: Path) -> None:
    (folder / "test/images/ffffff0000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="^cannot be decoded"):
        read_image(Source(str(folder)), "test/images/ffffff0000.png", scale=EIGHT)


def test_each_process_opens_a_zip_once(folder: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = str(zip_folder(folder, folder.parent / "data.zip"))
    names = list_images(Source(archive))
    opened_by = []

    class Slow(Source):
        def __init__(self, uri: str) -> None:
            opened_by.append(os.getpid())
            others.wait(0.2)  # so that all threads ask before the first has it
            super().__init__(uri)

    def read_all() -> None:
        with ThreadPoolExecutor(8) as pool:
            images = pool.map(lambda name: read_image(shared_source(archive), name, scale=EIGHT).pixels, names)
            np.testing.assert_array_equal(list(images), mini.test_images)
        assert opened_by.count(os.getpid()) == 1

    others = threading.Event()
    monkeypatch.setattr(saltray.data.raw, "Source", Slow)
    read_all()
    with saltray.data.raw._locks[os.getpid()]:  # a thread that opens a source does not exist in a child
        child = multiprocessing.get_context("fork").Process(target=read_all)
        child.start()
    child.join(60)
    assert child.exitcode == 0


def test_deep_test_images_have_the_range_that_is_given_or_their_own(tmp_path: Path) -> None:
    put(tmp_path / "a.png", np.array([[0, 1000, 2000]], np.uint16))
    put(tmp_path / "b.png", np.array([[0, 0, 500]], np.uint16))
    own = read_tiles(str(tmp_path), part="test")
    assert own.images.tolist() == [[[0, 128, 255]], [[0, 0, 64]]]
    trained = PixelRange(bits=16, maximum=2040)
    given = read_tiles(str(tmp_path), part="test", scale=trained)
    assert given.images.tolist() == [[[0, 125, 250]], [[0, 0, 63]]]
    assert read_image(Source(str(tmp_path)), "a.png", scale=trained).pixels.tolist() == [[0, 125, 250]]
    assert read_image(Source(str(tmp_path)), "a.png", scale=None).pixels.tolist() == [[0, 4, 8]]  # as of old ensembles
    assert read_image(Source(str(tmp_path)), "a.png", scale=PixelRange(bits=16, maximum=1990)).clipped
    for scale in (EIGHT, PixelRange(bits=16, maximum=999)):
        with pytest.raises(DataError, match=r"a\.png: .*the training images have"):
            read_tiles(str(tmp_path), part="test", scale=scale)
        with pytest.raises(DataError, match="the training images have"):
            read_image(Source(str(tmp_path)), "a.png", scale=scale)
