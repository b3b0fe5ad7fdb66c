"""Zips from anywhere: damaged, malicious or unusual ones are refused in a line, and with little memory."""

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import saltray.data.archive
from saltray.data.archive import Archive
from saltray.data.images import MAX_BYTES
from saltray.errors import DataError
from saltray.storage.uri import open_store

from .mini import Mini, png, zip_folder, zip_members

TILE = png(np.zeros((4, 4), np.uint8))


def opened(path: Path) -> Archive:
    return Archive(open_store(str(path.parent)), path.name)


def test_members(folder: Path, tmp_path: Path, mini: Mini) -> None:
    archive = opened(zip_folder(folder, tmp_path / "data.zip"))
    names = [entry.key for entry in archive.members]
    assert sorted(names) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    for number, entry in enumerate(archive.members):
        assert archive.read(number) == (folder / entry.key).read_bytes()
        assert len(archive.read(number)) == entry.size


def test_folders_may_be_written_with_backslashes(tmp_path: Path) -> None:
    path = zip_members([("images/x", TILE)], tmp_path / "data.zip")
    path.write_bytes(path.read_bytes().replace(b"images/x", b"images\\x"))
    assert [entry.key for entry in opened(path).members] == ["images/x"]


def test_names_are_utf_8_even_where_the_zip_does_not_say_so(tmp_path: Path) -> None:
    names = ["images/F\xf6hr.png", "images/\u5317\u6d77.png", "images/a.png"]
    path = zip_members([(name, TILE) for name in names], tmp_path / "data.zip")
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for found in re.finditer(re.escape(mark), bytes(data)):
            data[found.start() + flags + 1] &= ~0x08
    path.write_bytes(data)
    archive = opened(path)
    assert [entry.key for entry in archive.members] == names
    assert archive.read(0) == TILE


def test_names_of_another_encoding_are_those_of_dos(tmp_path: Path) -> None:
    path = zip_members([("images/F_hr.png", TILE)], tmp_path / "data.zip")
    path.write_bytes(path.read_bytes().replace(b"F_hr", b"F\x94hr"))
    assert [entry.key for entry in opened(path).members] == ["images/F\xf6hr.png"]


def test_zip64(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "data.zip", "w") as file,
        file.open("images/a.png", "w", force_zip64=True) as member,
    ):
        member.write(TILE)
    assert opened(tmp_path / "data.zip").read(0) == TILE


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"not a zip",
    "no directory": lambda data: data[:-22] + data[-22:].replace(b"PK", b"XX"),
    "directory elsewhere": lambda data: data[:-6] + struct.pack("<I", 7) + data[-2:],
    "wrong version": lambda data: data.replace(b"PK\1\2\x14\x03\x14\0", b"PK\1\2\x14\x03\xff\0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_zip_is_one_line(name: str, tmp_path: Path) -> None:
    whole = zip_members([("images/a.png", TILE)], tmp_path / "data.zip").read_bytes()
    damaged = DAMAGE[name](whole)
    assert damaged != whole
    (tmp_path / "data.zip").write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "data.zip").read(0)
    assert "\n" not in str(caught.value)


def test_a_damaged_member_is_refused_alone(folder: Path, mini: Mini, tmp_path: Path) -> None:
    whole = zip_folder(folder, tmp_path / "data.zip").read_bytes()
    spot = whole.index(b"ffffff0001.png") + 80  # inside the compressed bytes of that member
    (tmp_path / "flipped.zip").write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
    archive = opened(tmp_path / "flipped.zip")
    numbers = {Path(entry.key).name: number for number, entry in enumerate(archive.members)}
    with pytest.raises(DataError, match="cannot be read from the zip"):
        archive.read(numbers["ffffff0001.png"])
    assert archive.read(numbers["ffffff0002.png"]) == (folder / "test/images/ffffff0002.png").read_bytes()


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zip_members([("images/a.png", TILE)], tmp_path / "data.zip")
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of the member
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        opened(path).read(0)


def test_zip_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = opened(zip_members([("images/a.png", bytes(MAX_BYTES + 1))], tmp_path / "bomb.zip"))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # reading would fail
    with pytest.raises(DataError, match="67,108,865 bytes"):
        archive.read(0)


def test_a_bomb_that_hides_its_size_is_refused(tmp_path: Path) -> None:
    path = zip_members([("images/a.png", bytes(10_000_000))], tmp_path / "bomb.zip")
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 10_000_000), struct.pack("<I", 10)))
    with pytest.raises(DataError, match="cannot be read from the zip"):
        opened(path).read(0)


def test_too_many_members_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_members([(f"images/{n}.png", b"") for n in range(100)], tmp_path / "data.zip")
    monkeypatch.setattr(saltray.data.archive, "MAX_DIRECTORY_BYTES", 5000)
    with pytest.raises(DataError, match="the limit is 5,000: unpack it"):
        opened(path)


def test_another_compression_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images/a.png", TILE)
    (tmp_path / "lzma.zip").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="neither stored nor deflated"):
        opened(tmp_path / "lzma.zip").read(0)
