"""The data set's folder is found below folders that hold nothing else, and not where there is too much to look at."""

import pytest

from saltray.data.data_root import SubFolders, find_root, has_tiles, unread_folders
from saltray.errors import DataError


def tree(*folders: str) -> SubFolders:
    """The sub-folders of a source that has these folders."""

    def sub_folders(prefix: str) -> list[str]:
        below = (f"{folder}/".removeprefix(prefix) for folder in folders if f"{folder}/".startswith(prefix))
        return sorted({name.partition("/")[0] for name in below if name})

    return sub_folders


def root_of(*folders: str, images: tuple[str, ...] = ()) -> str:
    return find_root(tree(*folders), lambda prefix: prefix in images, "DATA")


@pytest.mark.parametrize("name", ["train", "Test", "images", "MASKS"])
def test_one_folder_of_a_data_set_makes_it_one(name: str) -> None:
    assert has_tiles(["docs", name])
    assert root_of(name, "other/train") == ""
    assert root_of(f"a/{name}") == "a/"


def test_what_is_no_data_set_has_none() -> None:
    assert not has_tiles(["trains"])
    assert root_of() == ""
    assert root_of("a", "b") == ""


def test_wrappers_are_left_out_up_to_three() -> None:
    assert root_of("a/b/c/train") == "a/b/c/"
    assert root_of("a/b/c/d/train") == "a/b/c/"


def test_other_folders_may_be_beside_the_data_set() -> None:
    assert root_of("docs/old", "salt/train") == "salt/"
    assert root_of("docs", "salt/inner/train") == ""  # only a folder that is alone is a wrapper


def test_images_beside_one_folder_are_the_data_set() -> None:
    assert root_of("out/x", images=("",)) == ""
    assert root_of("a/out", images=("a/",)) == "a/"


def test_several_data_sets_are_refused() -> None:
    with pytest.raises(DataError, match="DATA has several data sets, in b, c; name one of them"):
        root_of("b/train", "c/images")


def test_among_many_folders_none_is_looked_for() -> None:
    many = [f"log{number}" for number in range(19)]
    assert root_of(*many, "salt/train") == "salt/"
    assert root_of(*many, "more", "salt/train") == ""


def test_folders_of_tiles_that_are_not_read_are_told() -> None:
    assert unread_folders(tree("a/train", "a/valid/images", "a/docs", "b/masks"), "a/") == ["valid"]
    assert unread_folders(tree("docs", "valid/images"), "") == []  # it is a data set's folder that they are beside
    assert unread_folders(tree("train", "valid/images", *(f"log{number}" for number in range(20))), "") == []
