"""The same tiles come from a folder, a zip, Kaggle's zips and S3, whole or image by image."""

import io
import multiprocessing
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from saltray.data.png import MAX_BYTES
from saltray.data.raw import list_images, read_image, read_tiles
from saltray.errors import ConfigError, DataError

from .mini import Mini, kaggle_zips, png, put, zip_folder


def ids_of(names: list[str]) -> list[str]:
    return [Path(name).stem for name in names]


def test_every_place_gives_the_same_tiles(place: str, mini: Mini) -> None:
    tiles = read_tiles(place)
    assert tiles.ids == tuple(mini.ids)
    assert tiles.masks is not None
    np.testing.assert_array_equal(tiles.images, mini.images)
    np.testing.assert_array_equal(tiles.masks, mini.masks)
    test = read_tiles(place, part="test")
    assert test.ids == tuple(mini.test_ids)
    assert test.masks is None
    np.testing.assert_array_equal(test.images, mini.test_images)


def test_every_place_streams_image_by_image(place: str, mini: Mini) -> None:
    names = list_images(place)
    assert ids_of(names) == mini.test_ids
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda name: read_image(place, name), names * 3))
    np.testing.assert_array_equal(images, np.concatenate([mini.test_images] * 3))
    assert ids_of(list_images(place, part="train")) == mini.ids


def test_test_images_may_be_alone(folder: Path, mini: Mini) -> None:
    (folder / "test/images/README.txt").write_text("beside them")
    for uri in (folder / "test/images", zip_folder(folder / "test/images", folder / "alone.zip")):
        names = list_images(str(uri))
        assert names == [f"{tile}.png" for tile in mini.test_ids]
        np.testing.assert_array_equal(read_image(str(uri), names[1]), mini.test_images[1])
    (folder / "test/images/README.txt").unlink()
    for uri in (folder / "test", zip_folder(folder / "test", folder / "test.zip")):
        assert list_images(str(uri)) == [f"images/{tile}.png" for tile in mini.test_ids]


def test_labelled_images_stand_in_for_missing_test_images(folder: Path, mini: Mini) -> None:
    assert ids_of(list_images(str(folder / "train"))) == mini.ids


def test_unpacked_files_hide_the_zip_they_came_from(folder: Path, mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(kaggle_zips(folder, tmp_path / "zips"), folder, dirs_exist_ok=True)
    (folder / f"train/images/{mini.ids[0]}.png").unlink()
    (folder / f"train/masks/{mini.ids[0]}.png").unlink()
    (folder / "train.csv").unlink()
    shutil.rmtree(folder / "test")
    assert read_tiles(str(folder)).ids == tuple(mini.ids[1:])
    assert ids_of(list_images(str(folder))) == mini.test_ids


def test_hidden_files_are_passed_over(folder: Path, mini: Mini) -> None:
    for name in (".DS_Store", "train/images/.ipynb_checkpoints/x.png", "__MACOSX/train/images/._a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not a tile")
    assert read_tiles(str(folder)).ids == tuple(mini.ids)
    archive = zip_folder(folder, folder.parent / "hidden.zip")
    assert read_tiles(str(archive)).ids == tuple(mini.ids)


def test_a_forked_child_reads_a_zip_by_itself(folder: Path, mini: Mini) -> None:
    archive = str(zip_folder(folder, folder.parent / "data.zip"))
    names = list_images(archive)
    read_image(archive, names[0])
    with multiprocessing.get_context("fork").Pool(3) as pool:
        images = pool.starmap(read_image, [(archive, name) for name in names * 10], chunksize=1)
    np.testing.assert_array_equal(images, np.concatenate([mini.test_images] * 10))


@pytest.mark.parametrize("uri", ["nowhere", "nowhere/data.zip", "."])
@pytest.mark.parametrize("part", ["train", "test"])
def test_no_tiles_is_one_line_that_names_the_layouts(
    uri: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"expected train/images and train/masks .*train\.zip") as caught:
        read_tiles(uri, part=part)  # type: ignore[arg-type]
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_masks_is_one_line(folder: Path) -> None:
    shutil.rmtree(folder / "train/masks")
    with pytest.raises(DataError, match=r"no masks in .*train/masks; put one PNG there") as caught:
        read_tiles(str(folder))
    assert caught.value.problems == ()


def test_a_uri_of_another_kind_is_refused() -> None:
    for uri in ("https://example.org/data", "s3://key:secret@bucket/data"):
        with pytest.raises(ConfigError) as caught:
            list_images(uri)
        assert "secret" not in str(caught.value)


def test_read_image_names_the_file_at_fault(folder: Path) -> None:
    (folder / "test/images/ffffff0000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"test/images/ffffff0000\.png of .*cannot be decoded"):
        read_image(str(folder), "test/images/ffffff0000.png")


@pytest.mark.parametrize("part", ["train", "test"])
def test_names_are_checked_before_anything_is_decoded(folder: Path, part: str) -> None:
    images = folder / part / "images"
    put(images / "deeper/tile.png", np.zeros((9, 13), np.uint8))
    put(images / "line\nbreak.png", np.zeros((9, 13), np.uint8))
    put(images / "back\\slash.png", np.zeros((9, 13), np.uint8))
    put(images / f"{'x' * 101}.png", np.zeros((9, 13), np.uint8))
    put(images / ".png", np.zeros((9, 13), np.uint8))
    (images / "photo.jpg").write_bytes(b"")
    with (images / "vast.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="7 problems") as caught:
        list_images(str(folder), part=part)  # type: ignore[arg-type]
    problems = "\n".join(caught.value.problems)
    for name, fault in {
        "deeper/tile.png": "a path",
        "'train/images/line\\nbreak.png'": "control",
        "back\\slash.png": "a path",
        "x" * 101 + ".png": "101 characters",
        "images/.png": "an empty id",
        "photo.jpg": "not a PNG",
        "vast.png": "67,108,865 bytes",
    }.items():
        line = [line for line in problems.split("\n") if name.replace("train", part) in line]
        assert len(line) == 1, (name, problems)
        assert fault in line[0]


def zip_of(members: list[tuple[str, bytes]], path: Path) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return str(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_may_not_climb_out_or_repeat_a_name(tmp_path: Path) -> None:
    tile = png(np.zeros((4, 4), np.uint8))
    members = [
        "images/a.png",
        "images/../../etc/b.png",
        "images/...png",
        "images/a.png",
        "images/A.PNG",
        "images/a.PNG",
    ]
    with pytest.raises(DataError) as caught:
        list_images(zip_of([(name, tile) for name in members], tmp_path / "data.zip"))
    assert len(caught.value.problems) == 4
    assert sum("its id a is that of images/a" in line for line in caught.value.problems) == 2
    assert sum("a path" in line for line in caught.value.problems) == 2


def test_damaged_zip(folder: Path, tmp_path: Path) -> None:
    whole = zip_folder(folder, tmp_path / "data.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"short\.zip is not a whole zip"):
        list_images(str(tmp_path / "short.zip"))
    spot = whole.index(b"ffffff0001.png") + 80  # inside the compressed bytes of that member
    (tmp_path / "flipped.zip").write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
    with pytest.raises(DataError) as caught:
        read_tiles(str(tmp_path / "flipped.zip"), part="test")
    assert len(caught.value.problems) == 1
    assert "test/images/ffffff0001.png: cannot be read from the zip" in caught.value.problems[0]


def test_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    uri = zip_of([("images/a.png", bytes(MAX_BYTES + 1))], tmp_path / "bomb.zip")
    with pytest.raises(DataError, match="67,108,865 bytes"):
        list_images(uri)
    with pytest.raises(DataError, match="67,108,865 bytes"):
        read_image(uri, "images/a.png")


def test_zip_of_another_compression_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images/a.png", png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "lzma.zip").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="neither stored nor deflated"):
        read_image(str(tmp_path / "lzma.zip"), "images/a.png")
