"""Tiles to predict, of which all bad ones are told at once."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data import tile_reader
from saltray.data.pixel_range import PixelRange
from saltray.data.raw import list_images
from saltray.data.tile_reader import TileReader
from saltray.errors import DataError, NotFoundError, StorageError

from .mini import HEIGHT, WIDTH, Mini

BYTES = PixelRange(bits=8, maximum=255)


def reader_of(uri: str | Path, scale: PixelRange | None = BYTES) -> TileReader:
    return TileReader(uri=str(uri), height=HEIGHT, width=WIDTH, scale=scale)


def test_the_tiles_of_every_source_are_read_and_checked(any_source_uri: str, mini: Mini) -> None:
    names, reader = list_images(any_source_uri), reader_of(any_source_uri)
    assert reader.shape == (HEIGHT, WIDTH)
    assert reader.check(names) == ()
    np.testing.assert_array_equal(np.stack([reader.read(name) for name in names]), mini.test_images)


def save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path)


def empty(path: Path) -> None:
    path.touch()


def junk(path: Path) -> None:
    path.write_text("hello")


def truncated(path: Path) -> None:
    save(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), np.uint8), path)
    path.write_bytes(path.read_bytes()[:-20])


def another_size(path: Path) -> None:
    save(np.zeros((HEIGHT, WIDTH + 1), np.uint8), path)


def colour(path: Path) -> None:
    save(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), path)


def colourful_palette(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).quantize(9).save(path)


def sixteen_bits(path: Path) -> None:
    save(np.full((HEIGHT, WIDTH), 999, np.uint16), path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


FAULTS: dict[Callable[[Path], None], str] = {
    empty: "it is empty",
    junk: "no PNG",
    truncated: "cannot be decoded",
    another_size: f"{HEIGHT}x{WIDTH + 1} pixels, but the ensemble was trained on {HEIGHT}x{WIDTH}; crop or pad it",
    colour: "channels differ",
    colourful_palette: "channels differ",
    sixteen_bits: "a 16-bit image, but the training images have 8 bits",
    dangling: "there is no such file",
}
every_fault = pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)


@every_fault
@pytest.mark.parametrize("flat", [False, True])
def test_a_bad_image_is_named_with_its_fault(make: Callable[[Path], None], flat: bool, folder: Path) -> None:
    part = folder / "test/images"
    uri = part if flat else folder
    make(part / "bad.png")
    names = list_images(str(uri))
    bad = next(name for name in names if "bad" in name)
    with pytest.raises(DataError) as caught:
        reader_of(uri).check(names)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{bad}: ")
    assert FAULTS[make] in problem
    assert "\n" not in str(caught.value)
    assert bad in str(caught.value)
    with pytest.raises((DataError, StorageError), match=r"bad\.png"):
        reader_of(uri).read(bad)


def test_all_bad_images_are_told_and_those_of_one_kind_summed_up(folder: Path) -> None:
    part = folder / "test/images"
    for make in FAULTS:
        make(part / f"{make.__name__}.png")
    for number in range(7):
        another_size(part / f"size-{number}.png")
    names = list_images(str(folder))
    with pytest.raises(DataError, match=f"{len(FAULTS) + 7} problems in {folder}") as caught:
        reader_of(folder).check(names)
    told = "\n".join(caught.value.problems)
    for make in FAULTS:
        assert f"{make.__name__}.png" in told or make is another_size
    assert "and 5 more: " in told  # of eight of another size
    assert len(caught.value.problems) < len(FAULTS) + 2


def test_values_above_the_range_of_the_training_images_are_told(folder: Path) -> None:
    part = folder / "test/images"
    shutil.rmtree(part)
    part.mkdir()
    for name, top in (("bright", 3500), ("dark", 2000)):
        save(np.full((HEIGHT, WIDTH), top, np.uint16), part / f"{name}.png")
    reader = reader_of(folder, PixelRange(bits=16, maximum=3000))
    assert reader.check(list_images(str(folder))) == ("test/images/bright.png",)
    assert reader.read("test/images/bright.png").max() == 255
    assert reader.read("test/images/dark.png").max() == 170


def test_a_file_that_may_not_be_read_is_a_problem_and_a_bucket_that_may_not_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refused(uri: str, name: str, *, scale: object) -> object:
        asked.append(name)
        raise StorageError(f"{name}: access is denied")

    monkeypatch.setattr(tile_reader, "read_image", refused)
    names = list_images(str(folder))
    with pytest.raises(DataError, match="5 problems") as caught:
        reader_of(folder).check(names)
    assert "access is denied" in caught.value.problems[0]
    monkeypatch.setattr(tile_reader, "Source", lambda uri: type("S", (), {"threads": 1, "uri": uri}))
    asked.clear()
    with pytest.raises(StorageError, match="access is denied"):
        reader_of("s3://bucket/x").check([*names] * 100)
    assert len(asked) < 500  # the others are not waited for


def test_an_interrupted_check_ends_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, asked = threading.Event(), []

    def interrupted(uri: str, name: str, *, scale: object) -> object:
        asked.append(name)
        if started.is_set():
            return type("Image", (), {"pixels": np.zeros((HEIGHT, WIDTH)), "clipped": False})
        started.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(tile_reader, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reader_of(folder).check(["a"] * 100_000)
    assert len(asked) < 100_000


def test_a_tile_that_has_vanished_is_named(folder: Path) -> None:
    name = list_images(str(folder))[0]
    os.remove(folder / name)  # noqa: PTH107
    with pytest.raises(NotFoundError, match=name):
        reader_of(folder).read(name)
