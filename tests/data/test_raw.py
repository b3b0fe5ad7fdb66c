"""The same tiles come from every kind of source, as a whole or image by image."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import saltray.data.raw
from saltray.data.raw import list_images, read_image, read_tiles
from saltray.data.source import Source
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError

from .mini import Mini, put, stems, zip_folder


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


def test_read_image(any_source_uri: str, mini: Mini) -> None:
    names = list_images(any_source_uri)
    assert stems(names) == mini.test_ids
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda name: read_image(any_source_uri, name), names * 3))
    np.testing.assert_array_equal(images, np.concatenate([mini.test_images] * 3))
    assert stems(list_images(any_source_uri, part="train")) == mini.ids


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


def test_read_image_names_the_file(folder: Path) -> None:
    (folder / "test/images/ffffff0000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"test/images/ffffff0000\.png of .*cannot be decoded") as caught:
        read_image(str(folder), "test/images/ffffff0000.png")
    (problem,) = caught.value.problems
    assert problem.startswith("test/images/ffffff0000.png: cannot be decoded")


def test_each_process_opens_a_zip_once(folder: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = str(zip_folder(folder, folder.parent / "data.zip"))
    names = list_images(archive)
    opened_by = []

    def recorded(uri: str) -> Source:
        opened_by.append(os.getpid())
        return Source(uri)

    def read_two() -> None:
        np.testing.assert_array_equal([read_image(archive, name) for name in names[:2]], mini.test_images[:2])
        assert opened_by.count(os.getpid()) == 1

    monkeypatch.setattr(saltray.data.raw, "Source", recorded)
    read_two()
    child = multiprocessing.get_context("fork").Process(target=read_two)
    child.start()
    child.join(60)
    assert child.exitcode == 0
