"""The raw files of every kind of source: listed, read and tagged; damaged and malicious zips are refused."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import saltray.data.source
from saltray.data.source import Source
from saltray.errors import ConfigError, DataError, NotFoundError
from saltray.storage.uri import open_store

from .mini import SOURCES, Mini, kaggle_zips, png, put, zip_folder, zip_members


def test_every_source_has_the_same_files(any_source_uri: str, mini: Mini) -> None:
    source = Source(any_source_uri)
    entries = [entry for entry in source.list() if not entry.key.endswith(".zip")]
    assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)
    content = {Path(entry.key).name: source.read(entry.key) for entry in entries if "masks" not in entry.key}
    assert set(content) == {f"{tile}.png" for tile in [*mini.ids, *mini.test_ids]} | {"train.csv", "depths.csv"}
    assert content[f"{mini.test_ids[1]}.png"] == png(np.repeat(mini.test_images[1][..., None], 3, axis=2))
    assert {len(content[Path(entry.key).name]) == entry.size for entry in entries if "masks" not in entry.key} == {True}
    with pytest.raises(NotFoundError, match=r"nothing\.png"):
        source.read("nothing.png")


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Source("data").uri == str(tmp_path / "data")


@pytest.mark.parametrize("uri", ["https://example.org/data", "s3://key:secret@bucket/data"])
def test_a_uri_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Source(uri)
    assert "secret" not in str(caught.value)


def test_unpacked_files_hide_the_zip_they_are_from(folder: Path, mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(kaggle_zips(folder, tmp_path / "zips"), folder, dirs_exist_ok=True)
    (folder / f"train/images/{mini.ids[0]}.png").unlink()
    shutil.rmtree(folder / "test")
    keys = {entry.key for entry in Source(str(folder)).list()}
    assert f"train/images/{mini.ids[0]}.png" not in keys
    assert f"train/images/{mini.ids[1]}.png" in keys
    assert f"test/images/{mini.test_ids[0]}.png" in keys  # from test.zip, which is not unpacked


@pytest.mark.parametrize("kind", ["folder", "zip", "s3", "zip on s3"])
def test_content_tag_is_that_of_the_content(
    kind: str, folder: Path, mini: Mini, s3_server: str, tmp_path: Path
) -> None:
    key = f"train/images/{mini.ids[1]}.png"

    def tag() -> str:
        source = Source(SOURCES[kind](folder, tmp_path / "other", f"s3://saltray-test/{tmp_path.name}"))
        (entry,) = [entry for entry in source.list() if entry.key == key]
        return source.content_tag(entry)

    before = tag()
    os.utime(folder / key, (400_000_000, 400_000_000))
    assert tag() == before
    put(folder / key, mini.images[2])
    assert tag() != before


def wrapped(folder: Path, target: Path, name: str = "competition_data") -> Path:
    """The data set in a folder that is alone in another, with a file manager's files."""
    shutil.copytree(folder, target / name)
    (target / "__MACOSX").mkdir()
    (target / "__MACOSX/._x").touch()
    (target / ".DS_Store").touch()
    (target / "README.txt").touch()
    return target


def keys(uri: Path | str) -> list[str]:
    return [entry.key for entry in Source(str(uri)).list() if entry.key.endswith(("png", "csv"))]


@pytest.mark.parametrize("kind", ["folder", "zip", "competition_data.zip", "s3", "zip on s3"])
def test_a_folder_on_top_is_not_part_of_the_names(kind: str, folder: Path, tmp_path: Path, s3_server: str) -> None:
    outer = wrapped(folder, tmp_path / "outer")
    uri = SOURCES[kind](outer, tmp_path / "other", f"s3://saltray-test/{tmp_path.name}")
    assert keys(uri) == keys(folder)
    source = Source(uri)
    assert len(source.notes) == 1
    assert "the data set is in the folder competition_data of " in source.notes[0]
    (entry,) = [entry for entry in source.list() if entry.key == "train.csv"]
    assert source.read(entry.key) == (folder / "train.csv").read_bytes()
    assert Source(source.uri).list() == source.list()


def test_folders_on_top_may_be_nested_or_beside_others(folder: Path, tmp_path: Path) -> None:
    assert keys(wrapped(folder, tmp_path / "outer", "a/b")) == keys(folder)
    (tmp_path / "outer/notebooks").mkdir()
    (tmp_path / "outer/notebooks/x.py").touch()
    with pytest.raises(DataError, match=r"several data sets, in b, c; name one of them"):
        shutil.copytree(folder, tmp_path / "outer/a/c")
        Source(str(tmp_path / "outer/a"))
    shutil.rmtree(tmp_path / "outer/a")
    shutil.copytree(folder, tmp_path / "outer/salt")
    assert keys(tmp_path / "outer") == keys(folder)


def test_archives_in_a_folder_on_top(folder: Path, tmp_path: Path) -> None:
    kaggle_zips(folder, tmp_path / "outer/salt")
    assert keys(tmp_path / "outer") == keys(folder)


def test_train_zip_may_have_a_folder_on_top(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "mine")
    for path in (folder / "train.csv", folder / "depths.csv"):
        path.unlink()
    (tmp_path / "outer").mkdir()
    (tmp_path / "mine").rename(tmp_path / "outer/mine")
    zip_folder(tmp_path / "outer", folder / "train.zip")
    assert f"train/images/{Mini().ids[0]}.png" in keys(folder)


def test_equal_files_of_several_archives_are_read_once(folder: Path, mini: Mini, tmp_path: Path) -> None:
    both = kaggle_zips(folder, tmp_path / "both")
    (folder / "train.csv").write_text("of the zip")
    zip_folder(folder, both / "competition_data.zip")
    assert keys(both) == keys(folder)
    source = Source(str(both))
    assert source.read("train.csv") == (both / "train.csv").read_bytes() != b"of the zip"
    assert source.problems == []
    (note,) = source.notes
    assert note.startswith("in several zips with equal content, and read once: ")


def test_different_files_of_one_name_in_several_archives_are_refused(folder: Path, mini: Mini, tmp_path: Path) -> None:
    both = kaggle_zips(folder, tmp_path / "both")
    put(folder / f"train/images/{mini.ids[1]}.png", mini.images[2])
    zip_folder(folder, both / "competition_data.zip")
    (problem,) = Source(str(both)).problems
    assert problem.where == f"train/images/{mini.ids[1]}.png"
    assert "is twice in train.zip and in competition_data.zip, with different content" in problem.what


def test_a_prefix_of_many_other_objects_is_not_listed_whole(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saltray.data.source, "_MAX_OTHERS", 3)
    uri = f"s3://saltray-test/{tmp_path.name}"
    for number in range(5):
        open_store(uri).put(f"logs{number}/x", b"")
    with pytest.raises(DataError, match="over 3 objects that are no tiles; name the data set itself"):
        Source(uri).list()


def test_a_folder_may_be_named_like_a_zip(tmp_path: Path) -> None:
    (tmp_path / "data.zip").mkdir()
    (tmp_path / "data.zip/inside").touch()
    assert [entry.key for entry in Source(str(tmp_path / "data.zip")).list()] == ["inside"]


def test_images_beside_one_folder_are_the_data_set(mini: Mini, tmp_path: Path, s3_server: str) -> None:
    put(tmp_path / "loose/a.png", mini.images[0])
    (tmp_path / "loose/out").mkdir()
    (tmp_path / "loose/out/x.csv").write_text("id,rle_mask\n")
    for kind in ("folder", "zip", "s3"):
        assert "a.png" in keys(SOURCES[kind](tmp_path / "loose", tmp_path / kind, f"s3://saltray-test/{tmp_path.name}"))


def test_the_files_that_are_read_have_full_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (folder / "depths.csv").rename(tmp_path / "real/depths.csv")
    (folder / "depths.csv").symlink_to(tmp_path / "real/depths.csv")
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer/inner")
    expected = {str(path) for path in (tmp_path / "outer").rglob("*") if path.is_file() and not path.is_symlink()}
    (tmp_path / "link").symlink_to("outer")
    assert Source(str(tmp_path / "link")).files() == expected | {str(tmp_path / "real/depths.csv")}
    zipped = zip_folder(tmp_path / "outer", tmp_path / "zips/train.zip")
    for uri in (zipped, zipped.parent):
        assert Source(str(uri)).files() == {str(zipped)}


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_kaggles_zips_and_tables_may_begin_with_a_capital(
    kind: str, folder: Path, tmp_path: Path, s3_server: str
) -> None:
    zips = kaggle_zips(folder, tmp_path / "zips")
    for path in list(zips.iterdir()):
        path.rename(path.with_name(path.name.capitalize()))
    uri = SOURCES[kind](zips, tmp_path / "other", f"s3://saltray-test/{tmp_path.name}")
    assert sorted(key.lower() for key in keys(uri)) == keys(folder)


def test_a_zip_is_named_in_every_way_that_a_file_is(folder: Path, tmp_path: Path) -> None:
    zipped = zip_folder(folder, tmp_path / "x.zip")
    for uri in (f"file://{zipped}", f"FILE://{zipped}", f"file://{tmp_path}/x%2Ezip"):
        assert keys(uri) == keys(folder)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_of_tiles_that_is_not_read_is_told_once(kind: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", folder / "valid")
    (folder / "notebooks").mkdir()
    source = Source(SOURCES[kind](folder, tmp_path / "other", ""))
    assert source.notes == ["not read, as they are neither train nor test: valid"]


def test_names_in_notes_are_safe_to_print(folder: Path, tmp_path: Path) -> None:
    members = [(f"a\x1b[2Jb\n/{path.relative_to(folder)}", path.read_bytes()) for path in folder.rglob("*.png")]
    (note,) = Source(str(zip_members(members, tmp_path / "x.zip"))).notes
    assert note.isprintable()


def test_what_is_no_file_is_no_archive(folder: Path) -> None:
    os.mkfifo(folder / "test.zip")  # opening it would wait for ever
    shutil.rmtree(folder / "test")
    assert "train.csv" in keys(folder)


def test_another_process_opens_a_source_once_and_a_later_one_again(folder: Path) -> None:
    archive = zip_folder(folder, folder.parent / "data.zip")
    first = Source(str(archive))
    sent = pickle.dumps(first)
    there = pickle.loads(sent)
    assert there is pickle.loads(sent)
    assert there.list() == first.list()
    (folder / "depths.csv").unlink()
    later = pickle.loads(pickle.dumps(Source(str(zip_folder(folder, archive)))))
    assert len(later.list()) == len(first.list()) - 1
