"""Which files are found as images, masks and tables, and which names are refused before anything is decoded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saltray.data.images import MAX_BYTES
from saltray.data.raw_layout import Part, find_images, find_layout, id_problem, printable, raise_problems
from saltray.data.source import Source
from saltray.errors import DataError

from .mini import Mini, png, put, stems, zip_folder, zip_members


def names(uri: Path, part: Part = "test") -> list[str]:
    """Names of the images of a part, by ascending id."""
    return [entry.key for entry in find_images(Source(str(uri)), part).values()]


def test_layout(any_source_uri: str, mini: Mini) -> None:
    problems: list[str] = []
    layout = find_layout(Source(any_source_uri), problems)
    assert problems == []
    assert list(layout.images) == list(layout.masks) == mini.ids
    assert list(layout.test) == mini.test_ids
    assert stems(entry.key for entry in layout.images.values()) == mini.ids
    assert (
        {Path(entry.key).name for entry in layout.tables.values()} == set(layout.tables) == {"train.csv", "depths.csv"}
    )


def test_tables_may_be_in_train(folder: Path) -> None:
    (folder / "train.csv").rename(folder / "train/train.csv")
    (folder / "depths.csv").unlink()
    layout = find_layout(Source(str(folder)), [])
    assert {name: entry.key for name, entry in layout.tables.items()} == {"train.csv": "train/train.csv"}


@pytest.mark.parametrize("zipped", [False, True])
def test_test_images_may_be_alone(zipped: bool, folder: Path, mini: Mini) -> None:
    (folder / "test/images/README.txt").write_text("not an image")
    uri = folder / "test/images"
    assert names(zip_folder(uri, folder / "alone.zip") if zipped else uri) == [f"{tile}.png" for tile in mini.test_ids]
    (folder / "test/images/README.txt").unlink()
    uri = folder / "test"
    expected = [f"images/{tile}.png" for tile in mini.test_ids]
    assert names(zip_folder(uri, folder / "test.zip") if zipped else uri) == expected


def test_labelled_images_replace_missing_test_images(folder: Path, mini: Mini) -> None:
    assert stems(names(folder / "train")) == mini.ids


@pytest.mark.parametrize("zipped", [False, True])
def test_hidden_files_are_ignored(zipped: bool, folder: Path, mini: Mini) -> None:
    for name in (".DS_Store", "train/images/.ipynb_checkpoints/x.png", "__MACOSX/train/images/._a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not a tile")
    uri = zip_folder(folder, folder.parent / "hidden.zip") if zipped else folder
    problems: list[str] = []
    assert list(find_layout(Source(str(uri)), problems).images) == mini.ids
    assert problems == []


@pytest.mark.parametrize("uri", ["nowhere", "nowhere/data.zip", "."])
@pytest.mark.parametrize(
    "find",
    [
        lambda source: find_images(source, "train"),
        lambda source: find_images(source, "test"),
        lambda source: find_layout(source, []),
    ],
)
def test_no_images_is_one_line_that_names_the_layouts(
    uri: str, find: Callable[[Source], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"expected train/images and train/masks .*train\.zip") as caught:
        find(Source(uri))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_masks_is_one_line(folder: Path) -> None:
    shutil.rmtree(folder / "train/masks")
    with pytest.raises(DataError, match=r"no masks in .*train/masks; add one PNG for each image of train/images") as e:
        find_layout(Source(str(folder)), [])
    assert e.value.problems == ()


@pytest.mark.parametrize("part", ["train", "test"])
def test_names_are_checked(folder: Path, part: Part) -> None:
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
        names(folder, part)
    problems = "\n".join(caught.value.problems)
    for name, problem in {
        "deeper/tile.png": "a path",
        "'train/images/line\\nbreak.png'": "control",
        "back\\slash.png": "a path",
        "x" * 101 + ".png": "101 characters",
        "images/.png": "an empty id",
        "photo.jpg": "not a PNG",
        "vast.png": "67,108,865 bytes",
    }.items():
        (line,) = [line for line in problems.split("\n") if name.replace("train", part) in line]
        assert problem in line


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_may_not_have_paths_outside_it_or_repeat_a_name(tmp_path: Path) -> None:
    members = ("a.png", "../../etc/b.png", "...png", "a.png", "A.PNG", "a.PNG")
    tile = png(np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError) as caught:
        names(zip_members([(f"images/{name}", tile) for name in members], tmp_path / "data.zip"))
    assert len(caught.value.problems) == 4
    assert sum("its id a is also that of images/a" in line for line in caught.value.problems) == 2
    assert sum("a path" in line for line in caught.value.problems) == 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("0a1b", None),
        ("tile 7.v2", None),
        ("x" * 100, None),
        ("x" * 101, "101 characters"),
        ("", "an empty id"),
        ("a\x1bb", "control characters"),
        ("a/b", "a path"),
        ("a\\b", "a path"),
        ("..", "a path"),
    ],
)
def test_id_problem(name: str, problem: str | None) -> None:
    found = id_problem(name)
    assert found is None if problem is None else found is not None and problem in found


def test_printable() -> None:
    assert printable("Öl.png") == "Öl.png"
    assert printable("a\x1b[2J") == r"'a\x1b[2J'"


def test_problems_are_sorted_and_counted() -> None:
    raise_problems("here", [])
    with pytest.raises(DataError, match="^1 problem in here, fix or remove the files; the first: b$"):
        raise_problems("here", ["b"])
    with pytest.raises(DataError, match="^2 problems in here, .*; the first: a$") as caught:
        raise_problems("here", ["b", "a"])
    assert caught.value.problems == ("a", "b")
