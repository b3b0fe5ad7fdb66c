"""The synthetic data set has the layout, the irregularities and the statistics of the real one."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.packed import PackedDataset
from saltray.data.packing import pack
from saltray.data.raw import read_tiles
from saltray.data.synthetic import Drawing, write_dataset, write_packed
from saltray.errors import ConfigError, DataError, StorageError
from saltray.storage.base import Store

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


def test_a_tile_depends_only_on_seed_and_index(tmp_path: Path) -> None:
    few = contents(write_dataset(tmp_path / "few", tiles=5, test_tiles=2, seed=8))
    many = contents(write_dataset(tmp_path / "many", tiles=9, test_tiles=4, seed=8))
    other = contents(write_dataset(tmp_path / "other", tiles=5, test_tiles=2, seed=9))
    assert contents(write_dataset(tmp_path / "again", tiles=5, test_tiles=2, seed=8)) == few
    pngs = {name: data for name, data in few.items() if name.endswith(".png")}
    assert len(pngs) == 5 + 5 + 2
    assert all(many[name] == data for name, data in pngs.items())
    assert not pngs.keys() & other.keys()


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

    monkeypatch.setattr("saltray.data.synthetic._write_image", full)
    with pytest.raises(StorageError, match="cannot write .*/data: No space left on device; free some space there"):
        write_dataset(tmp_path / "data", tiles=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tiles", {"tiles": 0}),
        ("seed", {"tiles": 1, "seed": -1}),
        ("test_tiles", {"tiles": 1, "test_tiles": -1}),
        ("size", {"tiles": 1, "size": 0}),
        ("size", {"tiles": 1, "size": 102}),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, name: str, arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is "):
        write_dataset(tmp_path / "data", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [101, 40, 8])
def test_packed_tiles_are_those_of_the_files(
    size: int, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path / "data", tiles=23, test_tiles=0, seed=4, size=size)
    monkeypatch.setattr("saltray.data.tiles.SHARD_TILES", 10)
    direct = PackedDataset.open(write_packed(store, Drawing(seed=4, size=size), 23))
    assert [shard.tiles for shard in direct.manifest.shards] == [10, 10, 3]
    files = pack(str(folder), store)
    assert (direct.manifest.digest, direct.manifest.statistics) == (files.digest, files.statistics)
    own = PackedDataset.open(store.sub(f"datasets/{files.name}"))
    np.testing.assert_array_equal(direct.index.same_mask, own.index.same_mask)
    np.testing.assert_array_equal(direct.tiles().masks, read_tiles(str(folder)).masks)


def test_a_packed_set_is_written_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_packed(store, Drawing(), 5)
    others = [write_packed(store, drawing, tiles) for drawing, tiles in ((Drawing(seed=1), 5), (Drawing(), 6))]
    assert len({folder.uri, *(other.uri for other in others)}) == 3
    monkeypatch.setattr("saltray.data.synthetic.draw_tile", None)  # drawing would fail
    assert write_packed(store, Drawing(), 5) == folder


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.data.synthetic.FILES", 2)
    events: list[object] = []
    write_dataset(tmp_path / "data", tiles=9, test_tiles=2, size=8, observer=events.append)
    assert [str(event) for event in events] == [f"tiles: {done} of 11" for done in (2, 4, 6, 8, 9)]


def test_two_tiles_of_one_id_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.data.synthetic.whole_id", lambda number, *_: f"{number % 7}")
    with pytest.raises(ConfigError, match="seed 3 gives two of 8 tiles the same id; use another seed"):
        write_dataset(tmp_path / "data", tiles=8, seed=3)
    assert not list(tmp_path.iterdir())
