"""Tiles to predict, of which all bad ones are told at once."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.pixel_range import PixelRange
from saltray.data.raw import list_images
from saltray.data.source import Source
from saltray.data.tile_reader import TileReader
from saltray.errors import DataError, NotFoundError, StorageError

from .mini import HEIGHT, SOURCES, WIDTH, Mini

BYTES = PixelRange(bits=8, maximum=255)


def reader_of(uri: str | Path, scale: PixelRange | None = BYTES) -> TileReader:
    return TileReader(uri=str(uri), height=HEIGHT, width=WIDTH, scale=scale)


def test_the_tiles_of_every_source_are_read_and_checked(any_source_uri: str, mini: Mini) -> None:
    source, reader = Source(any_source_uri), reader_of(any_source_uri)
    names = list_images(source)
    assert reader.shape == (HEIGHT, WIDTH)
    assert reader.check(source, names) == ()
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
    source = Source(str(uri))
    names = list_images(source)
    bad = next(name for name in names if "bad" in name)
    with pytest.raises(DataError) as caught:
        reader_of(uri).check(source, names)
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
    source = Source(str(folder))
    names = list_images(source)
    with pytest.raises(DataError, match=f"{len(FAULTS) + 7} problems in {folder}") as caught:
        reader_of(folder).check(source, names)
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
    source = Source(str(folder))
    assert reader.check(source, list_images(source)) == ("test/images/bright.png",)
    assert reader.read("test/images/bright.png").max() == 255
    assert reader.read("test/images/dark.png").max() == 170


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_file_that_may_not_be_read_is_a_problem_and_a_bucket_that_may_not_is_an_error(
    kind: str, folder: Path, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refused(name: str) -> bytes:
        asked.append(name)
        raise StorageError(f"{name}: access is denied")

    uri = SOURCES[kind](folder, tmp_path, f"s3://saltray-test/{tmp_path.name}")
    source = Source(uri)
    names = list_images(source)
    monkeypatch.setattr(source, "read", refused)
    if kind == "folder":
        with pytest.raises(DataError, match="5 problems") as caught:
            reader_of(uri).check(source, names)
        assert "access is denied" in caught.value.problems[0]
    else:
        with pytest.raises(StorageError, match="access is denied"):
            reader_of(uri).check(source, names * 1000)
        assert len(asked) < 5000  # the others are not waited for


def test_an_interrupted_check_ends_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, asked = threading.Event(), []
    source = Source(str(folder))
    names, read = list_images(source), source.read

    def interrupted(name: str) -> bytes:
        asked.append(name)
        if started.is_set():
            return read(name)
        started.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reader_of(folder).check(source, names * 10_000)
    assert len(asked) < 50_000


def test_a_tile_that_has_vanished_is_named(folder: Path) -> None:
    name = list_images(Source(str(folder)))[0]
    os.remove(folder / name)  # noqa: PTH107
    with pytest.raises(NotFoundError, match=name):
        reader_of(folder).read(name)
