"""The census of a data set known beforehand, and every fault that a data set can have."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saltray.data.raw import read_tiles
from saltray.data.summary import DatasetSummary, check
from saltray.errors import DataError

from .mini import HEIGHT, WIDTH, Mini, png, png_header, put, rgb, upload


def expected(mini: Mini) -> DatasetSummary:
    """Counted by eye from how `Mini` is made, the means by plain arithmetic."""
    salt = [int(mask.sum()) for mask in mini.masks]
    some = sorted(count for count in salt if count)
    pixels = mini.images.ravel().tolist()
    mean = sum(pixels) / len(pixels)
    return DatasetSummary(
        train_tiles=12,
        test_tiles=5,
        height=HEIGHT,
        width=WIDTH,
        masks_8bit=5,
        masks_16bit=7,
        empty=5,
        full=1,
        vertical=1,
        tiny=1,
        black=2,
        black_test=1,
        duplicate_images=1,
        duplicate_masks=1,
        mean_coverage=pytest.approx(sum(salt) / len(pixels)),
        median_coverage=pytest.approx(some[3] / (HEIGHT * WIDTH)),
        pixel_mean=pytest.approx(mean / 255),
        pixel_std=pytest.approx((sum((p - mean) ** 2 for p in pixels) / len(pixels)) ** 0.5 / 255),
        depth_range=(60, 71),
    )


def test_census(place: str, mini: Mini) -> None:
    census = check(place)
    assert census == expected(mini)
    rows = dict(census.rows())
    assert rows["tile size"] == "9x13 pixels"
    assert rows["masks"] == "7 of 16 bits, 5 of 8 bits"
    assert rows["empty masks"] == "5 (41.67%)"
    assert rows["depth"] == "60 to 71, training"


def test_tables_and_test_images_are_optional(folder: Path, mini: Mini) -> None:
    for path in (folder / "train.csv", folder / "depths.csv", *(folder / "test/images").iterdir()):
        path.unlink()
    census = check(str(folder))
    assert (census.test_tiles, census.black_test, census.depth_range) == (0, 0, None)
    assert census.train_tiles == 12
    assert "depth" not in dict(census.rows())


def test_no_salt_at_all(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png", np.full((4, 4), 51, np.uint8))
    put(tmp_path / "masks/a.png", np.zeros((4, 4), np.uint8))
    census = check(str(tmp_path))
    assert (census.empty, census.mean_coverage, census.median_coverage) == (1, 0, None)
    assert census.pixel_mean == pytest.approx(0.2)
    assert dict(census.rows())["median coverage"] == "no salt"


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def image(folder: Path, mini: Mini, place: int) -> Path:
    return folder / f"train/images/{mini.ids[place]}.png"


def mask(folder: Path, mini: Mini, place: int) -> Path:
    return folder / f"train/masks/{mini.ids[place]}.png"


FULL = np.full((HEIGHT, WIDTH), 255, np.uint8)
BAD = rgb(FULL)
BAD[0, 0, 0] = 254
# What is done to the small data set, and for each file the fault that must be told; {0} stands for the first id.
FAULTS: dict[str, tuple[Callable[[Path, Mini], object], dict[str, str]]] = {
    "image cut short": (
        lambda f, m: image(f, m, 0).write_bytes(image(f, m, 0).read_bytes()[:60]),
        {"train/images/{0}.png": "cannot be decoded"},
    ),
    "empty mask file": (lambda f, m: mask(f, m, 1).write_bytes(b""), {"train/masks/{1}.png": "cannot be decoded"}),
    "test image of text": (
        lambda f, m: (f / "test/images/ffffff0000.png").write_text("?"),
        {"test/images/ffffff0000.png": "cannot be decoded"},
    ),
    "colour": (lambda f, m: put(image(f, m, 2), BAD), {"train/images/{2}.png": "three channels differ"}),
    "colour in test": (
        lambda f, m: put(f / "test/images/ffffff0000.png", BAD),
        {"test/images/ffffff0000.png": "three channels differ"},
    ),
    "bomb": (
        lambda f, m: image(f, m, 0).write_bytes(png_header(9000, 9000, data=bytes(9001 * 90))),
        {"train/images/{0}.png": "9000x9000 pixels; the limit"},
    ),
    "grey mask": (
        lambda f, m: put(mask(f, m, 0), np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)),
        {"train/masks/{0}.png": "117 different values"},
    ),
    "no mask": (
        lambda f, m: mask(f, m, 3).unlink(),
        {"train/images/{3}.png": "no mask", "train.csv": "{3} has no mask"},
    ),
    "no image": (lambda f, m: image(f, m, 4).unlink(), {"train/masks/{4}.png": "without an image"}),
    "mask of another size": (
        lambda f, m: put(mask(f, m, 0), np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
        {"train/masks/{0}.png": "9x14 pixels, its image 9x13"},
    ),
    "tile of another size": (
        lambda f, m: (put(image(f, m, 0), np.zeros((5, 6), np.uint8)), put(mask(f, m, 0), np.zeros((5, 6), np.uint8))),
        {"train/images/{0}.png": "5x6 pixels, where most tiles have 9x13"},
    ),
    "test tile of another size": (
        lambda f, m: put(f / "test/images/ffffff0002.png", np.zeros((5, 6), np.uint8)),
        {"test/images/ffffff0002.png": "5x6 pixels, where most tiles have 9x13"},
    ),
    "path in a name": (
        lambda f, m: put(f / "train/images/sub/tile.png", FULL),
        {"train/images/sub/tile.png": "an id that is a path"},
    ),
    "two files of one id": (
        lambda f, m: image(f, m, 0).with_suffix(".PNG").write_bytes(png(FULL)),
        {"train/images/{0}.png": "its id {0} is that of"},
    ),
    "another picture format": (
        lambda f, m: (f / "train/masks/x.tif").write_bytes(b""),
        {"train/masks/x.tif": "not a PNG"},
    ),
    "train.csv disagrees": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows[:-1], f"{m.ids[0]},1 3"]),
        {"train.csv": "{0} differs from its mask PNG"},
    ),
    "train.csv has no run-length code": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows[:-1], f"{m.ids[0]},1 3 7"]),
        {"train.csv": "{0}: run-length encoding has 3 numbers"},
    ),
    "train.csv names a stranger": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows, "stranger,1 1"]),
        {"train.csv": "stranger has no mask among the PNGs"},
    ),
    "train.csv lacks a row": (
        lambda f, m: edit(f / "train.csv", lambda rows: rows[:-1]),
        {"train.csv": "no row for {0}"},
    ),
    "train.csv repeats a row": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows, rows[-1]]),
        {"train.csv": "{0} stands there twice"},
    ),
    "train.csv has other columns": (
        lambda f, m: edit(f / "train.csv", lambda rows: ["id,mask", *rows[1:]]),
        {"train.csv": "its columns are id,mask; expected id,rle_mask"},
    ),
    "train.csv is empty": (lambda f, m: (f / "train.csv").write_bytes(b""), {"train.csv": "not a table"}),
    "train.csv is no text": (
        lambda f, m: (f / "train.csv").write_bytes(b"id,rle_mask\n\xff\xfe,\n"),
        {"train.csv": "UTF-8"},
    ),
    "train.csv has an odd row": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows[:-1], f"{m.ids[0]},,7", rows[-1]]),
        {"train.csv": "3 columns in '{0},,7', not 2"},
    ),
    "depths.csv holds no number": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [rows[0], f"{m.ids[0]},deep", *rows[2:]]),
        {"depths.csv": "{0}: depth 'deep' is not a number"},
    ),
    "depths.csv holds nan": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [rows[0], f"{m.ids[0]},nan", *rows[2:]]),
        {"depths.csv": "{0}: depth 'nan' is not a number"},
    ),
    "depths.csv repeats a row": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [*rows, rows[1]]),
        {"depths.csv": "{0} stands there twice"},
    ),
    "depths.csv has a path for an id": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [*rows, "../x,7"]),
        {"depths.csv": "an id that is a path"},
    ),
}


def told(problems: tuple[str, ...], faults: dict[str, str], mini: Mini) -> bool:
    return all(
        any(line.startswith(f"{name.format(*mini.ids)}: ") and fault.format(*mini.ids) in line for line in problems)
        for name, fault in faults.items()
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_by_its_file_alone(fault: str, folder: Path, mini: Mini) -> None:
    spoil, faults = FAULTS[fault]
    spoil(folder, mini)
    with pytest.raises(DataError) as caught:
        check(str(folder))
    assert told(caught.value.problems, faults, mini), caught.value.problems
    assert len(caught.value.problems) == len(faults), caught.value.problems
    assert "\n" not in "".join((str(caught.value), *caught.value.problems))
    assert str(folder) in str(caught.value)


def test_all_faults_are_told_at_once_and_in_order(folder: Path, mini: Mini) -> None:
    names = ["image cut short", "empty mask file", "colour", "no image", "train.csv names a stranger"]
    names += ["test tile of another size", "depths.csv has a path for an id", "another picture format"]
    for name in names:
        FAULTS[name][0](folder, mini)
    with pytest.raises(DataError, match="8 problems") as caught:
        check(str(folder))
    assert all(told(caught.value.problems, FAULTS[name][1], mini) for name in names), caught.value.problems
    assert len(caught.value.problems) == 8
    assert list(caught.value.problems) == sorted(caught.value.problems)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_training_does_not_mind_a_broken_test_image(folder: Path, mini: Mini) -> None:
    (folder / "test/images/ffffff0000.png").write_text("?")
    assert read_tiles(str(folder)).ids == tuple(mini.ids)
    with pytest.raises(DataError, match="1 problem in"):
        read_tiles(str(folder), part="test")


def test_the_size_of_most_wins_whatever_the_order(tmp_path: Path) -> None:
    for name, side in {"a": 5, "b": 4, "c": 4}.items():
        put(tmp_path / f"{name}.png", np.zeros((side, side), np.uint8))
    with pytest.raises(DataError) as caught:
        read_tiles(str(tmp_path), part="test")
    assert caught.value.problems == ("a.png: 5x5 pixels, where most tiles have 4x4; cut or pad it",)


def test_a_fault_on_s3_is_told_by_its_key(s3_server: str, folder: Path, mini: Mini, tmp_path: Path) -> None:
    FAULTS["grey mask"][0](folder, mini)
    with pytest.raises(DataError) as caught:
        check(upload(folder, f"s3://saltray-test/{tmp_path.name}"))
    assert told(caught.value.problems, FAULTS["grey mask"][1], mini)
