"""Which files are found as images, masks and tables, and which names are refused before anything is decoded."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saltray.data.images import MAX_BYTES
from saltray.data.problems import Problem
from saltray.data.raw_layout import Part, find_images, find_layout
from saltray.data.source import Source
from saltray.errors import DataError
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .mini import Mini, png, put, stems, zip_folder, zip_members


def names(uri: Path, part: Part = "test") -> list[str]:
    """Names of the images of a part, by ascending id."""
    return [entry.key for entry in find_images(Source(str(uri)), part).values()]


def test_layout(any_source_uri: str, mini: Mini) -> None:
    problems: list[Problem] = []
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


def test_labelled_images_are_no_test_images(folder: Path, mini: Mini) -> None:
    assert stems(names(folder / "train", "train")) == mini.ids
    for uri in (folder / "train", zip_folder(folder / "train", folder / "only.zip")):
        with pytest.raises(DataError, match="no test images in .*: its 12 images have masks.*choose the part train"):
            names(uri)
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match="no test images in .*: its 12 images have masks"):
        names(folder)
    shutil.rmtree(folder / "train/masks")
    assert stems(names(folder / "train")) == mini.ids  # without masks they are images to predict


def one_folder(folder: Path) -> Path:
    """The training and the test part unpacked into one folder."""
    for path in (folder / "test/images").iterdir():
        path.rename(folder / "train/images" / path.name)
    return folder


def test_train_csv_tells_the_parts_of_one_folder_apart(folder: Path, mini: Mini) -> None:
    source = Source(str(one_folder(folder)))
    problems: list[Problem] = []
    layout = find_layout(source, problems)
    assert (list(layout.images), list(layout.test), problems) == (mini.ids, mini.test_ids, [])
    assert layout.notes == ("5 images without mask and row of train.csv are the test part",)
    assert stems(names(folder)) == mini.test_ids
    assert stems(names(folder, "train")) == mini.ids


@pytest.mark.parametrize("change", ["no table", "a mask without row"])
def test_without_train_csv_the_parts_of_one_folder_are_not_known(change: str, folder: Path, mini: Mini) -> None:
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").unlink()
    if change == "a mask without row":
        (folder / "train.csv").write_text("\n".join(rows[:-1]))
    layout = find_layout(Source(str(one_folder(folder))), [])
    assert (list(layout.images), list(layout.test)) == ([*mini.ids, *mini.test_ids], [])


def test_an_image_with_a_row_and_without_mask_is_no_test_image(folder: Path, mini: Mini) -> None:
    (folder / f"train/masks/{mini.ids[3]}.png").unlink()
    layout = find_layout(Source(str(one_folder(folder))), [])
    assert (list(layout.images), list(layout.test)) == (mini.ids, mini.test_ids)


def test_names_are_composed(folder: Path, mini: Mini) -> None:
    for part, form in (("images", "NFD"), ("masks", "NFC")):
        put(folder / "train" / part / f"{unicodedata.normalize(form, 'Föhr')}.PNG", mini.masks[0])
    problems: list[Problem] = []
    layout = find_layout(Source(str(folder)), problems)
    assert problems == []
    assert "Föhr" in layout.images.keys() & layout.masks.keys()
    put(folder / "train/images" / f"{unicodedata.normalize('NFC', 'Föhr')}.png", mini.masks[0])
    find_layout(Source(str(folder)), problems)
    (problem,) = problems
    assert "its id 'Föhr' is also that of" in problem.what


def test_test_images_may_be_directly_in_test(folder: Path, mini: Mini) -> None:
    for path in list((folder / "test/images").iterdir()):
        path.rename(folder / "test" / path.name)
    (folder / "test/images").rmdir()
    assert stems(names(folder)) == mini.test_ids


def test_folders_may_be_written_in_capitals(folder: Path, mini: Mini) -> None:
    (folder / "train/images").rename(folder / "train/Images")
    (folder / "train").rename(folder / "Train")
    assert list(find_layout(Source(str(folder)), []).images) == mini.ids


@pytest.mark.parametrize("zipped", [False, True])
def test_hidden_files_are_ignored(zipped: bool, folder: Path, mini: Mini) -> None:
    for name in (
        ".DS_Store",
        "train/images/.ipynb_checkpoints/x.png",
        "__MACOSX/train/images/._a.png",
        "train/images/Thumbs.db",
        "train/masks/desktop.ini",
        "train/images/Icon\r",
        "train/images/@eaDir/a.png",
        "train/masks/readme.txt",
        "train/images/._a.png",
        "test/images/a.png.aux.xml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not a tile")
    uri = zip_folder(folder, folder.parent / "hidden.zip") if zipped else folder
    problems: list[Problem] = []
    assert list(find_layout(Source(str(uri)), problems).images) == mini.ids
    assert problems == []


FINDS: list[Callable[[Source], object]] = [
    lambda source: find_images(source, "train"),
    lambda source: find_images(source, "test"),
    lambda source: find_layout(source, []),
]


@pytest.mark.parametrize("find", FINDS)
@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        (".", r"expected train/images and train/masks .*train\.zip"),
        ("nowhere", "does not exist; check the path"),
        ("nowhere/data.zip", "does not exist; check the path"),
        ("zipps", r"does not exist; did you mean .*/zips\?"),
        ("zips/of-zip.zip", r"does not exist; did you mean .*/zips/of-zips\.zip\?"),
        ("fiel", "does not exist; check the path"),  # a file has no tiles
        ("file", "is a file; name a folder"),
        ("zips/of-zips.zip", r"but train\.zip; name the zip that has the tiles, or unpack it"),
        ("zips", r"but a\.zip, b\.zip, of-zips\.zip; name the zip that has the tiles"),
    ],
)
def test_no_images_is_one_line_with_the_remedy(
    uri: str, remedy: str, find: Callable[[Source], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("zips").mkdir()
    for name in ("a.zip", "b.zip"):
        Path("zips", name).touch()
    zip_members([("salt/train.zip", b"")], Path("zips/of-zips.zip"))
    with pytest.raises(DataError, match=remedy) as caught:
        find(Source(uri))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_the_folder_of_the_images_is_too_deep(name: str, folder: Path) -> None:
    with pytest.raises(DataError, match=f"only the folder of the {name}; name the folder that it is in, .*/train$"):
        find_layout(Source(str(folder / "train" / name)), [])


def test_the_root_of_a_machine_is_no_data_set() -> None:
    with pytest.raises(DataError, match="no training tiles in /;"):
        find_layout(Source("/"), [])


def test_no_masks_is_one_line(folder: Path) -> None:
    shutil.rmtree(folder / "train/masks")
    with pytest.raises(DataError, match=r"no masks in .*train/masks; add one for each image of train/images") as e:
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
    (images / "photo.gif").write_bytes(b"")
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
        "photo.gif": "no PNG, TIFF or JPEG",
        "vast.png": "67,108,865 bytes",
    }.items():
        (line,) = [line for line in problems.split("\n") if name.replace("train", part) in line]
        assert problem in line


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_may_not_have_paths_outside_it_or_repeat_a_name(tmp_path: Path) -> None:
    members = ("a.png", "../../etc/b.png", "...png", "A.PNG", "a.PNG", "b.png", "b.png")
    tiles = [png(np.full((4, 4), number, np.uint8)) for number in range(len(members))]
    with pytest.raises(DataError) as caught:
        names(zip_members([(f"images/{name}", t) for name, t in zip(members, tiles, strict=True)], tmp_path / "d.zip"))
    assert len(caught.value.problems) == 4
    assert sum("its id 'a' is also that of 'images/a" in line for line in caught.value.problems) == 1
    assert sum("a path" in line for line in caught.value.problems) == 2
    assert sum("images/b.png: is twice in d.zip" in line for line in caught.value.problems) == 1


def test_the_images_that_have_masks_are_counted(mini: Mini, tmp_path: Path) -> None:
    put(tmp_path / "masks/a.png", mini.masks[0])
    with pytest.raises(DataError, match="no test images in ") as caught:
        names(tmp_path)
    assert "0 images" not in str(caught.value)
    put(tmp_path / "images/a.png", mini.images[0])
    with pytest.raises(DataError, match="its only image has a mask, so it is of the training part"):
        names(tmp_path)


@pytest.mark.parametrize("top", ["", "x\x1b[2J\n/"])
def test_names_in_messages_are_safe_to_print(top: str, mini: Mini, tmp_path: Path) -> None:
    tile = png(mini.images[0])
    for names in (["images/\x1b[2J.png"], ["images/a.png"], ["images/a.png", "images/a\n/a.png", "images/a.PNG"]):
        zipped = zip_members([(f"{top}{name}", tile) for name in names], tmp_path / "data.zip")
        source = Source(str(zipped))
        assert all(note.isprintable() for note in source.notes)
        problems: list[Problem] = []
        lines: list[str] = []
        for find in (*FINDS, lambda source: find_layout(source, problems)):  # noqa: B023
            try:
                find(source)
            except DataError as error:
                lines += [str(error), *error.problems]
        assert all(line.isprintable() for line in (*lines, *map(str, problems)))


def test_a_part_of_a_store_is_no_raw_data_set(packed: Store, folder: Path) -> None:
    store = packed.uri.partition("/datasets/")[0]
    open_store(store).put_json("runs/r1/manifest.json", {})
    for find in FINDS:
        with pytest.raises(DataError, match=f"is a packed data set, .* that it was made of, {folder}$"):
            find(Source(packed.uri))
        with pytest.raises(
            DataError, match=f"is a store; name the raw tiles, or, to train, its packed data set {packed.uri}$"
        ):
            find(Source(store))
        with pytest.raises(DataError, match="is a run or another part of a store, as it seems; expected train/images"):
            find(Source(f"{store}/runs/r1"))
        with pytest.raises(DataError, match=f"does not exist; did you mean {packed.uri}"):
            find(Source(f"{packed.uri[:-1]}_"))
        with pytest.raises(DataError, match="does not exist; check the path"):  # r1 is no data set
            find(Source(f"{store}/runs/r2"))


def test_a_prefix_without_objects_does_not_exist(any_store_uri: str) -> None:
    open_store(any_store_uri).put("tiles/readme.txt", b"x")
    with pytest.raises(DataError, match=r"/tilse, which does not exist; did you mean .*/tiles\?"):
        find_images(Source(f"{any_store_uri}/tilse"), "train")
