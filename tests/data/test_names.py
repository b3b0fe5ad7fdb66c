"""Which files are tiles, and their ids."""

import unicodedata

import pytest

from saltray.data.names import id_problem, is_clutter, is_image, is_no_tile, tile_id


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "train/images/.DS_Store",
        "train/images/._a.png",
        "__MACOSX/train/images/a.png",
        "train/.ipynb_checkpoints/a-checkpoint.png",
        "train/images/@eaDir/a.png/SYNOFILE_THUMB_M.png",
        "Icon\r",
        "$RECYCLE.BIN/a.png",
        "System Volume Information/x",
    ],
)
def test_clutter(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "README.txt", "a.png.aux.xml", "a.tfw", "LIESMICH.TXT"])
def test_what_may_stand_beside_tiles(name: str) -> None:
    assert is_no_tile(f"images/{name}")
    assert not is_image(name)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", ".png", "a.b.tif", "x.TIFF", "x.jpg", "x.Jpeg"])
def test_images(name: str) -> None:
    assert is_image(name)
    assert not is_clutter(name)
    assert not is_no_tile(name)


def test_an_id_is_the_composed_stem() -> None:
    assert tile_id("images/a.b.png") == "a.b"
    decomposed = unicodedata.normalize("NFD", "Öl")
    assert decomposed != "Öl"
    assert tile_id(f"images/{decomposed}.tif") == "Öl"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("0a1b", None),
        ("tile 7.v2", None),
        ("x" * 100, None),
        ("x" * 101, "101 characters"),
        ("\u5317" * 83, None),
        ("\u5317" * 100, "300 bytes; the limit is 251"),
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
