"""Every problem that the files of a raw data set can have is reported, all of them at once."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.inspection import NO_MASK, check_sizes, common_range, inspect, keep, pixels_digest
from saltray.data.pixel_range import PixelRange
from saltray.data.problems import Problem
from saltray.data.source import Source
from saltray.data.tiles import join_shards
from saltray.errors import DataError

from .mini import HEIGHT, WIDTH, Mini, png, png_header, put, rgb, upload


def test_a_data_set_without_problems(any_source_uri: str, mini: Mini) -> None:
    found = inspect(Source(any_source_uri), keep, test=True)
    assert found.index.ids == tuple(mini.ids)
    np.testing.assert_array_equal(join_shards(found.used).images, mini.images)
    np.testing.assert_array_equal(join_shards(found.used).masks, mini.masks)
    assert found.bits.tolist() == [16 if mask.any() else 8 for mask in mini.masks]
    assert [image.shape for image in found.test] == [(HEIGHT, WIDTH)] * 5
    assert [image.black for image in found.test] == [False] * 4 + [True]
    assert len({image.digest for image in found.test}) == 5
    assert found.depths == {tile: 60 + n for n, tile in enumerate([*mini.ids, *mini.test_ids])}


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def image(folder: Path, mini: Mini, number: int) -> Path:
    return folder / f"train/images/{mini.ids[number]}.png"


def mask(folder: Path, mini: Mini, number: int) -> Path:
    return folder / f"train/masks/{mini.ids[number]}.png"


FULL = np.full((HEIGHT, WIDTH), 255, np.uint8)
COLOURED = rgb(FULL)
COLOURED[0, 0, 0] = 254
# What is done to the small data set, and the problem that each file must have then; {0} is the first id.
PROBLEMS: dict[str, tuple[Callable[[Path, Mini], object], dict[str, str]]] = {
    "truncated image": (
        lambda f, m: image(f, m, 0).write_bytes(image(f, m, 0).read_bytes()[:60]),
        {"train/images/{0}.png": "cannot be decoded"},
    ),
    "empty mask file": (lambda f, m: mask(f, m, 1).write_bytes(b""), {"train/masks/{1}.png": "cannot be decoded"}),
    "test image of text": (
        lambda f, m: (f / "test/images/ffffff0000.png").write_text("?"),
        {"test/images/ffffff0000.png": "cannot be decoded"},
    ),
    "colour": (lambda f, m: put(image(f, m, 2), COLOURED), {"train/images/{2}.png": "three channels differ"}),
    "colour in test": (
        lambda f, m: put(f / "test/images/ffffff0000.png", COLOURED),
        {"test/images/ffffff0000.png": "three channels differ"},
    ),
    "decompression bomb": (
        lambda f, m: image(f, m, 0).write_bytes(png_header(9000, 9000, data=bytes(9001 * 90))),
        {"train/images/{0}.png": "9000x9000 pixels; the limit"},
    ),
    "grey mask": (
        lambda f, m: put(mask(f, m, 0), np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)),
        {"train/masks/{0}.png": "117 different values"},
    ),
    "no mask": (
        lambda f, m: mask(f, m, 3).unlink(),
        {"train/images/{3}.png": "no mask of the same name"},
    ),
    "no image": (lambda f, m: image(f, m, 4).unlink(), {"train/masks/{4}.png": "no image of the same name"}),
    "mask of another size": (
        lambda f, m: put(mask(f, m, 0), np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
        {"train/masks/{0}.png": "9x14 pixels, but its image has 9x13"},
    ),
    "tile of another size": (
        lambda f, m: (put(image(f, m, 0), np.zeros((5, 6), np.uint8)), put(mask(f, m, 0), np.zeros((5, 6), np.uint8))),
        {"train/images/{0}.png": "5x6 pixels, but most tiles have 9x13"},
    ),
    "test tile of another size": (
        lambda f, m: put(f / "test/images/ffffff0002.png", np.zeros((5, 6), np.uint8)),
        {"test/images/ffffff0002.png": "5x6 pixels, but most tiles have 9x13"},
    ),
    "path in a name": (
        lambda f, m: put(f / "train/images/sub/tile.png", FULL),
        {"train/images/sub/tile.png": "an id that is a path"},
    ),
    "two files of one id": (
        lambda f, m: image(f, m, 0).with_suffix(".PNG").write_bytes(png(FULL)),
        {"train/images/{0}.png": "its id '{0}' is also that of"},
    ),
    "another image format": (
        lambda f, m: (f / "train/masks/x.bmp").write_bytes(b""),
        {"train/masks/x.bmp": "no PNG, TIFF or JPEG"},
    ),
    "train.csv disagrees": (
        lambda f, m: edit(f / "train.csv", lambda rows: [*rows[:-1], f"{m.ids[0]},1 3"]),
        {"train.csv: {0}": "differs from its mask image"},
    ),
    "one of 16 bits": (
        lambda f, m: put(image(f, m, 2), m.images[2].astype(np.uint16) * 257),
        {"train/images/{2}.png": "16 bits per pixel, but most images have 8"},
    ),
    "test image of 16 bits": (
        lambda f, m: put(f / "test/images/ffffff0000.png", m.test_images[0].astype(np.uint16)),
        {"test/images/ffffff0000.png": "a 16-bit image, but the training images have 8 bits"},
    ),
    "broken link": (
        lambda f, m: (image(f, m, 0).unlink(), image(f, m, 0).symlink_to("nowhere")),
        {"train/images/{0}.png": "a link that leads nowhere"},
    ),
    "JPEG mask": (
        lambda f, m: (mask(f, m, 0).unlink(), Image.new("L", (WIDTH, HEIGHT)).save(mask(f, m, 0).with_suffix(".jpg"))),
        {"train/masks/{0}.jpg": "a JPEG, which changes the values"},
    ),
    "path in depths.csv": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [*rows, "../x,7"]),
        {"depths.csv: '../x'": "an id that is a path"},
    ),
    "depths.csv repeats a row": (
        lambda f, m: edit(f / "depths.csv", lambda rows: [*rows, rows[1]]),
        {"depths.csv: {0}": "two rows"},
    ),
}


def reported(problems: tuple[str, ...], expected: dict[str, str], mini: Mini) -> bool:
    return all(
        any(line.startswith(f"{name.format(*mini.ids)}: ") and text.format(*mini.ids) in line for line in problems)
        for name, text in expected.items()
    )


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_reported_for_its_file_alone(name: str, folder: Path, mini: Mini) -> None:
    damage, expected = PROBLEMS[name]
    damage(folder, mini)
    with pytest.raises(DataError) as caught:
        inspect(Source(str(folder)), keep, test=True)
    assert reported(caught.value.problems, expected, mini), caught.value.problems
    assert len(caught.value.problems) == len(expected), caught.value.problems
    assert "\n" not in "".join((str(caught.value), *caught.value.problems))
    assert str(folder) in str(caught.value)


def test_all_problems_are_reported_at_once_and_in_order(folder: Path, mini: Mini) -> None:
    names = ["truncated image", "empty mask file", "colour in test", "no image", "one of 16 bits"]
    names += ["test tile of another size", "path in depths.csv", "another image format"]
    for name in names:
        PROBLEMS[name][0](folder, mini)
    with pytest.raises(DataError, match="8 problems in .*, fix or remove the files; the first: depths.csv: ") as caught:
        inspect(Source(str(folder)), keep, test=True)
    assert all(reported(caught.value.problems, PROBLEMS[name][1], mini) for name in names), caught.value.problems
    assert len(caught.value.problems) == 8
    assert list(caught.value.problems) == sorted(caught.value.problems)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_a_problem_on_s3_is_reported_by_its_key(s3_server: str, folder: Path, mini: Mini, tmp_path: Path) -> None:
    damage, expected = PROBLEMS["grey mask"]
    damage(folder, mini)
    with pytest.raises(DataError) as caught:
        inspect(Source(upload(folder, f"s3://saltray-test/{tmp_path.name}")), keep, test=True)
    assert reported(caught.value.problems, expected, mini)


def test_test_images_are_not_read_unless_asked_for(folder: Path, mini: Mini) -> None:
    (folder / "test/images/ffffff0000.png").write_text("?")
    found = inspect(Source(str(folder)), keep, test=False)
    assert (found.index.ids, found.test) == (tuple(mini.ids), ())


SMALL, LARGE = (4, 4), (5, 5)


@pytest.mark.parametrize(
    ("train", "test", "other"),
    [
        ([], [LARGE, SMALL, SMALL], ["test0"]),
        ([LARGE, SMALL, SMALL], [], ["train0"]),
        ([SMALL, SMALL, LARGE], [LARGE, LARGE], ["train2", "test0", "test1"]),
        ([SMALL], [SMALL], []),
        ([SMALL, LARGE], [], ["train0"]),
        ([], [], []),
    ],
)
def test_most_training_images_decide_the_size(
    train: list[tuple[int, int]], test: list[tuple[int, int]], other: list[str]
) -> None:
    problems: list[Problem] = []
    named = [[(f"{part}{n}", shape) for n, shape in enumerate(of)] for part, of in (("train", train), ("test", test))]
    check_sizes(named[0], named[1], problems)
    assert [problem.where for problem in problems] == other


def deepen(folder: Path, mini: Mini, top: int) -> None:
    """All images with 16 bits and values up to `top`."""
    for tile, pixels in zip([*mini.ids, *mini.test_ids], [*mini.images, *mini.test_images], strict=True):
        (path,) = folder.glob(f"*/images/{tile}.png")
        put(path, np.round(pixels / 255 * top).astype(np.uint16))


def test_the_range_is_that_of_all_training_images(folder: Path, mini: Mini) -> None:
    deepen(folder, mini, 4095)
    found = inspect(Source(str(folder)), keep, test=True)
    assert found.pixel_range == PixelRange(bits=16, maximum=4095)
    np.testing.assert_array_equal(join_shards(found.used).images, mini.images)
    assert found.notes == ("images: 12-bit range in 16-bit files, scaled by the data set's maximum 4095",)
    assert [image.digest for image in found.test] == [pixels_digest(image) for image in mini.test_images]


def test_brighter_test_images_are_told(folder: Path, mini: Mini) -> None:
    deepen(folder, mini, 3000)
    for tile in mini.test_ids[:2]:
        put(folder / f"test/images/{tile}.png", np.full((HEIGHT, WIDTH), 4000, np.uint16))
    found = inspect(Source(str(folder)), keep, test=True)
    assert found.notes[-1] == (
        "2 test images are brighter than any training image, and the excess is cut off: "
        "test/images/ffffff0000.png, test/images/ffffff0001.png"
    )
    put(folder / "test/images/ffffff0002.png", np.full((HEIGHT, WIDTH), 6001, np.uint16))
    with pytest.raises(DataError, match="values up to 6001, but the training images have at most 3000"):
        inspect(Source(str(folder)), keep, test=True)


def test_other_formats_of_images_and_masks(folder: Path, mini: Mini) -> None:
    for tile, pixels, salt in zip(mini.ids, mini.images, mini.masks, strict=True):
        for part in ("images", "masks"):
            (folder / f"train/{part}/{tile}.png").unlink()
        Image.fromarray(pixels).save(folder / f"train/images/{tile}.TIF")
        Image.fromarray(salt > 0).save(folder / f"train/masks/{tile}.png")
    found = inspect(Source(str(folder)), keep, test=False)
    np.testing.assert_array_equal(join_shards(found.used).images, mini.images)
    np.testing.assert_array_equal(join_shards(found.used).masks, mini.masks)


def test_a_subset_of_the_tiles_is_a_note(folder: Path, mini: Mini) -> None:
    for tile in mini.ids[2:]:
        image(folder, mini, mini.ids.index(tile)).unlink()
        mask(folder, mini, mini.ids.index(tile)).unlink()
    found = inspect(Source(str(folder)), keep, test=True)
    assert found.index.ids == tuple(mini.ids[:2])
    (note,) = found.notes
    assert note.startswith("train.csv: 10 rows without a tile, not used: ")


def test_one_folder_without_train_csv_is_one_line_with_the_choice(folder: Path, mini: Mini) -> None:
    (folder / "train.csv").unlink()
    for number in range(200):
        put(folder / f"train/images/x{number:03}.png", mini.images[1])
    with pytest.raises(DataError, match="200 problems in ") as caught:
        inspect(Source(str(folder)), keep, test=True)
    names = "train/images/x000.png, train/images/x001.png, train/images/x002.png and 197 more"
    assert caught.value.problems == (f"{names}: {NO_MASK}",)
    assert "test/images" in NO_MASK


@pytest.mark.parametrize(("bits", "other"), [([8, 8, 16], ["2"]), ([16, 16, 8], ["2"]), ([8, 16], ["1"]), ([16], [])])
def test_most_images_decide_the_bits(bits: list[int], other: list[str]) -> None:
    problems: list[Problem] = []
    kinds = {8: np.zeros((1, 1), np.uint8), 16: np.full((1, 1), 1000, np.uint16)}
    found = common_range({str(number): kinds[depth] for number, depth in enumerate(bits)}, problems)
    assert [problem.where for problem in problems] == other
    assert (found.bits, found.maximum) == ((8, 255) if bits[0] == 8 else (16, 1000))
