"""Raw data sets that were damaged or made in every way, through all that reads them: read, or refused in one line."""

import io
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.conftest import Watch, examples
from fuzz.mutations import TEXTS, Draw, damaged_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saltray.data.images import MAX_SIDE, decode_image, decode_mask
from saltray.data.raw import list_images, read_image, read_tiles
from saltray.data.raw_layout import find_layout
from saltray.data.rle import encode_rle
from saltray.data.source import Source
from saltray.data.summary import summarise
from saltray.errors import SaltrayError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # pytest undoes the package's own filter

GREY = np.arange(70, dtype=np.uint8).reshape(7, 10) * 3
SALT = (GREY > 100).astype(np.uint8) * np.uint8(255)


def check(call: Callable[[], object]) -> None:
    """Call what may raise a SaltrayError, and no other exception; its lines, or the notes of a result, can be printed.

    Of a result, the same must hold for its notes.
    """
    try:
        lines = list(getattr(call(), "notes", ()))
    except SaltrayError as error:
        lines = [str(error), *getattr(error, "problems", ())]
    assert all(line.isprintable() and len(line) <= 3000 for line in lines), lines
    assert len(lines) < 200


# Images


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


IMAGES = [
    saved(Image.fromarray(GREY)),
    saved(Image.fromarray(GREY.astype(np.uint16) * 60)),
    saved(Image.fromarray(GREY).convert("P")),
    saved(Image.fromarray(GREY).convert("RGBA")),
    saved(Image.fromarray(SALT > 0)),
    saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(SALT)]),
    saved(Image.fromarray(GREY), "JPEG"),
    saved(Image.fromarray(GREY), "JPEG", progressive=True),
    saved(Image.fromarray(GREY), "TIFF"),
    saved(Image.fromarray(GREY.astype(np.uint16)), "TIFF", compression="tiff_lzw"),
    saved(Image.fromarray(GREY).convert("RGB"), "TIFF", compression="jpeg"),
    saved(Image.fromarray(GREY).convert("P"), "TIFF", compression="packbits"),
    saved(Image.fromarray(SALT > 0), "TIFF", compression="group4"),
    saved(Image.fromarray(GREY.astype(np.float32)), "TIFF", compression="tiff_adobe_deflate"),
]
TAGS = [254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 292, 317, 320, 322, 323, 324, 325, 330]
TAGS += [338, 339, 347, 530, 532, 33432, 34377, 34665, 34675, 37724, 42112]


@st.composite
def tiffs(draw: Draw) -> bytes:
    """A TIFF whose tags are those of no program."""
    big = draw(st.booleans())
    order = ">" if big else "<"
    numbers = st.sampled_from([0, 1, 2, 3, 7, 8, 10, 16, 32, 70, 255, 4096, 65535, 2**31 - 1, 2**32 - 1])
    usual = {256: 10, 257: 7, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 7, 279: 70}
    tags = {**usual, **draw(st.dictionaries(st.sampled_from(TAGS), numbers, max_size=6))}
    entries = b""
    for tag, value in sorted(tags.items()):
        kind = draw(st.sampled_from([3, 4, 4, 4, 1, 2, 5, 11, 12, 16, 99]))
        count = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 1000, 2**32 - 1]))
        kind = 4 if kind == 3 and value > 65535 else kind
        entry = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + entry
    pixels = GREY.tobytes() * draw(st.sampled_from([1, 6]))
    following = draw(st.sampled_from([0, 0, 8, 8 + len(pixels)]))
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", following)


IMAGE_BYTES = st.one_of(
    st.sampled_from(IMAGES).flatmap(damaged_bytes),
    st.sampled_from(IMAGES).flatmap(damaged_bytes).flatmap(damaged_bytes),
    tiffs(),
    st.tuples(st.sampled_from([data[:8] for data in IMAGES]), st.binary(max_size=300)).map(b"".join),
)


@examples(1500)
@given(data=IMAGE_BYTES)
def test_an_image_is_decoded_or_refused(data: bytes, watch: Watch) -> None:
    with watch():
        for decode in (decode_image, decode_mask):
            check(lambda decode=decode: decode(data))
        try:
            image = decode_image(data)
        except SaltrayError:
            return
        assert image.dtype in (np.uint8, np.uint16)
        assert image.ndim == 2
        assert 0 < max(image.shape) <= MAX_SIDE


# Data sets


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small data set."""
    names = {f"train/images/t{number}.png": saved(Image.fromarray(GREY // (number + 1))) for number in range(4)}
    names |= {f"train/masks/t{number}.png": saved(Image.fromarray(SALT * (number % 2))) for number in range(4)}
    names |= {f"test/images/x{number}.png": saved(Image.fromarray(GREY)) for number in range(2)}
    rle = encode_rle(SALT)
    rows = "".join(f"t{number},{rle if number % 2 else ''}\n" for number in range(4))
    names["train.csv"] = f"id,rle_mask\n{rows}".encode()
    names["depths.csv"] = b"id,z\nt0,1\nt1,2.5\nx0,900\n"
    return names


def read_all(uri: str) -> None:
    """All that reads raw data."""
    check(lambda: Source(uri))
    check(lambda: find_layout(Source(uri), []))
    check(lambda: summarise(uri))
    check(lambda: read_tiles(uri))
    check(lambda: read_tiles(uri, part="test"))
    for part in ("train", "test"):
        names: list[str] = []
        check(lambda part=part, names=names: names.extend(list_images(Source(uri), part)))
        for name in names[:3]:
            check(lambda name=name: read_image(Source(uri), name, scale=None))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    """Makes an empty folder, the last one having been removed."""

    def make() -> Path:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        return tmp_path / "data"

    return make


@examples(150)
@given(draw=st.data())
def test_a_zip_is_read_or_refused(
    draw: st.DataObject, whole: dict[str, bytes], folder: Callable[[], Path], watch: Watch
) -> None:
    name = draw.draw(st.sampled_from(["data.zip", "train.zip", "test.zip", "competition_data.zip"]))
    names = st.sampled_from([*whole, "train/images/../../x.png", "/images/a.png", "images/a.png", "a.png", "x/"])
    tops = st.sampled_from(["", "", "top/", "a/b/", "__MACOSX/", "train/"])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw.draw(st.sampled_from([0, 8, 8, 12, 14]))) as archive:
        top = draw.draw(tops)
        members = dict(whole) if draw.draw(st.booleans()) else {}
        for member in draw.draw(st.lists(names | TEXTS, max_size=6)):
            members[member] = draw.draw(st.sampled_from(IMAGES)) if "image" in member else whole.get(member, b"")
        for member, data in members.items():
            archive.writestr(top + (member.replace("\0", "").encode(errors="replace").decode() or "x"), data)
    data = file.getvalue()
    if draw.draw(st.booleans()):
        data = draw.draw(damaged_bytes(data))
    if draw.draw(st.booleans()):  # what zipfile reads first
        spot = len(data) - draw.draw(st.integers(1, 22))
        data = data[:spot] + draw.draw(st.binary(min_size=1, max_size=4)) + data[spot + 1 :]
    home = folder()
    (home / name).write_bytes(data)
    with watch():
        read_all(str(home / name))
        read_all(str(home))
    assert [path.name for path in home.parent.rglob("*") if path.is_file()] == [name]


CELLS = st.one_of(
    st.sampled_from(["t0", "t1", "id", "rle_mask", "z", "", "1 1", "3 1 5 3", "1 70", "71 1", "-1 1", "9" * 30, "1e5"]),
    st.sampled_from(
        ["nan", "inf", '"', '"a', "a\nb", " t0 ", "Gr\u00f6\u00dfe", "Fo\u0308hr", "\0", "\ufffd", "x" * 200]
    ),
    st.text(max_size=8),
)


@st.composite
def tables(draw: Draw, valid: bytes) -> bytes:
    """A table: a valid one, damaged, or one of any cells."""
    if draw(st.booleans()):
        return draw(damaged_bytes(valid))
    mark = draw(st.sampled_from([",", ";", "\t", " "]))
    rows = [valid.decode().splitlines()[0].replace(",", mark)] if draw(st.booleans()) else []
    if draw(st.integers(0, 9)) == 0:  # many columns
        rows = [row + mark * draw(st.sampled_from([99, 1000, 10**6])) for row in rows or ["id"]]
    rows += [mark.join(row) for row in draw(st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8))]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(rows)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])), errors="replace")


@examples(300)
@given(draw=st.data())
def test_a_table_is_read_or_refused(
    draw: st.DataObject, whole: dict[str, bytes], folder: Callable[[], Path], watch: Watch
) -> None:
    home = folder()
    for name, data in whole.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(draw.draw(tables(data)) if name.endswith("csv") else data)
    with watch():
        read_all(str(home))


PARTS = st.sampled_from(
    ["train", "test", "images", "masks", "Train", "top", "__MACOSX", ".git", "data.zip", "train.csv"]
)
ODD = st.sampled_from(
    ["Icon\r", "Thumbs.db", "._a.png", ".png", "a.PNG", "a.jpeg", "Fo\u0308hr.png", "F\u00f6hr.png", "a"]
)


@st.composite
def paths_of_files(draw: Draw) -> bytes:
    """A path within a folder, of names that a data set may have, or any."""
    name = st.one_of(ODD, st.sampled_from(["t0.png", "t1.png", "train.csv", "train.zip"]), TEXTS | st.text(max_size=10))
    parts = [*draw(st.lists(PARTS, max_size=3)), draw(name)]
    raw = [part.replace("\0", "").replace("/", "").encode(errors="surrogatepass") for part in parts]
    return b"/".join(part for part in raw if part not in (b"", b".", b".."))[:200]


@examples(150)
@given(draw=st.data())
def test_a_folder_is_read_or_refused(
    draw: st.DataObject, whole: dict[str, bytes], folder: Callable[[], Path], watch: Watch
) -> None:
    home = os.fsencode(folder())
    top = draw.draw(st.sampled_from([b"", b"", b"top/", b"Train/"]))
    kept = draw.draw(st.lists(st.sampled_from(sorted(whole)), unique=True, max_size=len(whole)))
    files = {top + name.encode(): whole[name] for name in kept}
    for path in draw.draw(st.lists(paths_of_files(), max_size=6)):
        files[path or b"x"] = draw.draw(st.sampled_from([*IMAGES, *whole.values(), b""]))
    for path, data in files.items():
        target = os.path.join(home, path)  # noqa: PTH118
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            with open(target, "wb") as file:  # noqa: PTH123
                file.write(data)
        except OSError:
            continue  # a file where another has its folder
    for path in draw.draw(st.lists(paths_of_files(), max_size=2)):
        target = os.path.join(home, path or b"x")  # noqa: PTH118
        kind = draw.draw(st.sampled_from([b".", b"..", b"nowhere", b"train", b"t0.png", b"fifo"]))
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            os.mkfifo(target) if kind == b"fifo" else os.symlink(kind, target)  # noqa: PTH211
        except OSError:
            continue  # there is such a file
    with watch():
        read_all(os.fsdecode(home))
        read_all(os.fsdecode(home) + "/train")
