"""The raw files of every kind of source: listed, read and tagged; damaged and malicious zips are refused."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from saltray.data.images import MAX_BYTES
from saltray.data.source import Source
from saltray.errors import ConfigError, DataError, NotFoundError

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


def test_damaged_zip(folder: Path, mini: Mini, tmp_path: Path) -> None:
    whole = zip_folder(folder, tmp_path / "data.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"short\.zip is not a complete zip"):
        Source(str(tmp_path / "short.zip"))
    spot = whole.index(b"ffffff0001.png") + 80  # inside the compressed bytes of that member
    (tmp_path / "flipped.zip").write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
    source = Source(str(tmp_path / "flipped.zip"))
    with pytest.raises(DataError, match="cannot be read from the zip"):
        source.read("test/images/ffffff0001.png")
    assert source.read("test/images/ffffff0002.png") == (folder / "test/images/ffffff0002.png").read_bytes()


def test_a_folder_may_be_named_like_a_zip(tmp_path: Path) -> None:
    (tmp_path / "data.zip").mkdir()
    (tmp_path / "data.zip/inside").touch()
    assert [entry.key for entry in Source(str(tmp_path / "data.zip")).list()] == ["inside"]


def test_zip_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(str(zip_members([("images/a.png", bytes(MAX_BYTES + 1))], tmp_path / "bomb.zip")))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # reading would fail
    with pytest.raises(DataError, match="67,108,865 bytes"):
        source.read("images/a.png")


def test_zip_of_another_compression_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images/a.png", png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "lzma.zip").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="neither stored nor deflated"):
        Source(str(tmp_path / "lzma.zip")).read("images/a.png")
