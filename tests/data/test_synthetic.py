"""The synthetic data set has the layout, the irregularities and the statistics of the real one."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saltray.data.synthetic import draw_tile, write_dataset
from saltray.errors import ConfigError, DataError, StorageError

TILES = 400  # of the fixtures


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def stems(path: Path) -> set[str]:
    return {file.stem for file in path.iterdir() if file.suffix == ".png"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(synth_folder: Path) -> None:
    assert {path.name for path in synth_folder.iterdir()} == {
        *("train", "test", "train.csv", "depths.csv", "sample_submission.csv")
    }
    train, test = stems(synth_folder / "train/images"), stems(synth_folder / "test/images")
    assert (len(train), len(test), len(train | test)) == (TILES, 7, TILES + 7)
    assert stems(synth_folder / "train/masks") == train
    assert all(len(name) == 10 and set(name) <= set("0123456789abcdef") for name in train | test)
    assert {path.name for path in (synth_folder / "train").iterdir()} == {"images", "masks"}
    assert {path.name for path in (synth_folder / "test").iterdir()} == {"images"}


def test_tables(synth_folder: Path) -> None:
    train, test = stems(synth_folder / "train/images"), stems(synth_folder / "test/images")
    header, *labels = rows(synth_folder / "train.csv")
    assert header == ["id", "rle_mask"]
    assert len(labels) == TILES
    assert {name for name, _ in labels} == train
    header, *depths = rows(synth_folder / "depths.csv")
    assert header == ["id", "z"]
    assert len(depths) == TILES + 7
    assert {name for name, _ in depths} == train | test
    assert all(51 <= int(depth) <= 959 for _, depth in depths)
    header, *submission = rows(synth_folder / "sample_submission.csv")
    assert header == ["id", "rle_mask"]
    assert sorted(submission) == [[name, "1 1"] for name in sorted(test)]


def test_images_are_rgb_with_equal_channels(synth_folder: Path) -> None:
    for path in [*(synth_folder / "train/images").iterdir(), *(synth_folder / "test/images").iterdir()]:
        image = Image.open(path)
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (101, 101))
        channels = np.asarray(image)
        assert (channels == channels[..., :1]).all()


def test_masks_are_16_bit_unless_empty(synth_folder: Path) -> None:
    for path in (synth_folder / "train/masks").iterdir():
        bit_depth, colour_type = path.read_bytes()[24:26]  # of the PNG header chunk
        values = set(np.unique(np.asarray(Image.open(path))).tolist())
        assert (bit_depth, colour_type) == (16 if 65535 in values else 8, 0)
        assert values in ({0}, {0, 65535})


def test_table_of_runs_equals_masks(synth_folder: Path) -> None:
    for name, runs in rows(synth_folder / "train.csv")[1:]:
        numbers = [int(word) for word in runs.split()]
        decoded = np.zeros((101, 101), dtype=bool)
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            for pixel in range(start - 1, start - 1 + length):
                decoded[pixel % 101, pixel // 101] = True  # down each column in turn
        assert (decoded == (np.asarray(Image.open(synth_folder / f"train/masks/{name}.png")) > 0)).all()


def test_shares_of_each_kind(synth_images: NDArray[np.uint8], synth_salt: NDArray[np.bool_]) -> None:
    pixels = synth_salt.sum(axis=(1, 2))
    blank = synth_images.max(axis=(1, 2)) == 0
    columns = synth_salt.mean(axis=1)
    vertical = ((columns == 0) | (columns == 1)).all(axis=1) & (pixels > 0)
    assert 0.37 < (pixels == 0).mean() < 0.41
    assert 0.01 < blank.mean() < 0.03
    assert not pixels[blank].any()
    assert 0.02 < vertical.mean() < 0.04
    assert 0.005 < ((pixels > 0) & (pixels <= 10)).mean() < 0.03
    assert pixels.max() < 101 * 101
    assert 0.2 < synth_salt.mean() < 0.3
    assert len(np.unique(synth_images[~blank], axis=0)) == (~blank).sum()


def test_statistics_of_the_images(synth_images: NDArray[np.uint8]) -> None:
    grey = synth_images / 255
    assert 0.45 < grey.mean() < 0.49
    assert 0.14 < grey.std() < 0.18
    clipped = ((synth_images == 0) | (synth_images == 255))[synth_images.max(axis=(1, 2)) > 0]
    assert clipped.mean() < 0.01


def test_layers_are_flat_rather_than_steep(synth_images: NDArray[np.uint8]) -> None:
    down, across = (np.abs(np.diff(synth_images.astype(float), axis=axis)).mean() for axis in (1, 2))
    assert 1.2 * across < down < 4 * across


def test_salt_differs_in_texture_and_not_in_brightness(
    synth_images: NDArray[np.uint8], synth_salt: NDArray[np.bool_]
) -> None:
    large = [(i / 255.0, m) for i, m in zip(synth_images, synth_salt, strict=True) if 0.1 < m.mean() < 0.9 and i.any()]
    brighter = np.array([image[mask].mean() - image[~mask].mean() for image, mask in large])
    calmer = np.array([image[mask].std() < image[~mask].std() for image, mask in large])
    assert abs(brighter.mean()) < 0.01
    assert brighter.std() < 0.04
    assert 0.6 < calmer.mean() < 0.98  # a hint, but not the answer


def test_a_tile_depends_only_on_seed_and_index(tmp_path: Path) -> None:
    few = contents(write_dataset(tmp_path / "few", tiles=5, test_tiles=2, seed=8))
    many = contents(write_dataset(tmp_path / "many", tiles=9, test_tiles=4, seed=8))
    other = contents(write_dataset(tmp_path / "other", tiles=5, test_tiles=2, seed=9))
    assert contents(write_dataset(tmp_path / "again", tiles=5, test_tiles=2, seed=8)) == few
    pngs = {name: data for name, data in few.items() if name.endswith(".png")}
    assert len(pngs) == 5 + 5 + 2
    assert all(many[name] == data for name, data in pngs.items())
    assert not pngs.keys() & other.keys()


def test_the_parts_differ() -> None:
    train, test = draw_tile(1), draw_tile(1, part="test")
    assert train.id != test.id
    assert (train.image != test.image).any()


@pytest.mark.parametrize(("tiles", "expected"), [(1, 1), (4, 1), (10, 2), (12, 3)])
def test_default_number_of_test_tiles(tmp_path: Path, tiles: int, expected: int) -> None:
    assert len(stems(write_dataset(tmp_path / "data", tiles=tiles) / "test/images")) == expected


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "deeper" / "data"
    target.mkdir(parents=True)
    assert write_dataset(target, tiles=1) == target.resolve()
    assert [path.name for path in target.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "keep").touch())])
def test_existing_files_are_not_changed(tmp_path: Path, make: Callable[[Path], object]) -> None:
    target = tmp_path / "data"
    make(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="not an empty folder"):
        write_dataset(target, tiles=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_incomplete_data_set_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saltray.data.synthetic._write_csv", full)
    with pytest.raises(StorageError, match="cannot write .*/data: No space left on device; free some space there"):
        write_dataset(tmp_path / "data", tiles=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("tiles", {"tiles": 0}), ("seed", {"tiles": 1, "seed": -1}), ("test_tiles", {"tiles": 1, "test_tiles": -1})],
)
def test_numbers_out_of_range(tmp_path: Path, name: str, arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is "):
        write_dataset(tmp_path / "data", **arguments)
    assert not list(tmp_path.iterdir())
