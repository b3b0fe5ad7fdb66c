"""Untrusted image files: kinds, sizes, bit depths, damage, decompression bombs."""

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from saltray.data.images import MAX_BYTES, MAX_SIDE, decode_image, decode_mask, image_shape
from saltray.errors import DataError

from .mini import png, png_header, rgb

GREY = np.arange(70, dtype=np.uint8).reshape(7, 10) * 3


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def deep_channels(grey: np.ndarray, colour: int) -> bytes:
    """A PNG of 16-bit channels, which Pillow cannot write: grey with alpha (4), RGB (2) or RGBA (6)."""
    pixels = np.repeat(grey[..., None], {4: 2, 2: 3, 6: 4}[colour], axis=2).astype(">u2")
    if colour != 2:
        pixels[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return png_header(grey.shape[1], grey.shape[0], bits=16, colour=colour, data=rows)


def grey_palette(pixels: np.ndarray) -> bytes:
    """An image whose palette has the greys in reverse order."""
    image = Image.fromarray(255 - pixels, mode="L").convert("P")
    image.putpalette([255 - value // 3 for value in range(768)])
    return saved(image)


SAME = {
    "grey": saved(Image.fromarray(GREY)),
    "RGB": png(rgb(GREY)),
    "RGBA": saved(Image.fromarray(rgb(GREY)).convert("RGBA")),
    "grey with alpha": saved(Image.fromarray(GREY).convert("LA")),
    "palette": saved(Image.fromarray(GREY).convert("P")),
    "reversed palette": grey_palette(GREY),
    "TIFF": saved(Image.fromarray(GREY), "TIFF"),
    "TIFF, LZW": saved(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"),
    "TIFF, RGB, deflate": saved(Image.fromarray(rgb(GREY)), "TIFF", compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_the_same_image(name: str) -> None:
    image = decode_image(SAME[name])
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, GREY)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_nearly_the_same(mode: str) -> None:
    smooth = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
    image = decode_image(saved(Image.fromarray(smooth).convert(mode), "JPEG", quality=95))
    assert image.shape == smooth.shape
    assert np.abs(image.astype(int) - smooth).max() <= 4


def test_one_bit_is_black_and_white() -> None:
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(GREY > 100))), (GREY > 100) * 255)


DEEP = np.array([[0, 128, 129, 257, 4095, 65535]], np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        png(DEEP),
        saved(Image.fromarray(DEEP), "TIFF"),
        saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
        deep_channels(DEEP, 2),
        deep_channels(DEEP, 6),
    ],
    ids=["PNG", "TIFF", "LZW", "big-endian", "32 bits", "RGB", "RGBA"],
)
def test_16_bit_values_are_those_of_the_file(data: bytes) -> None:
    image = decode_image(data)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, DEEP)


@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (np.array([[0, 65535]], np.uint16), 16),
        (np.array([[0, 1]], np.uint16), 16),
        (np.array([[0, 256]], np.uint16), 16),
        (np.array([[0, 255]], np.uint8), 8),
        (np.array([[0, 1]], np.uint8), 8),
        (np.array([[False, True]]), 8),
        (rgb(np.array([[0, 255]], np.uint8)), 8),
    ],
)
def test_salt_is_any_value_above_0(pixels: np.ndarray, bits: int) -> None:
    mask = decode_mask(png(pixels))
    np.testing.assert_array_equal(mask.salt, [[0, 1]])
    assert mask.salt.dtype == np.uint8
    assert mask.bits == bits


def two_colours(*colours: tuple[int, int, int]) -> bytes:
    """A mask of palette indices 0 and 1."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([channel for colour in colours for channel in colour])
    return saved(image)


def test_masks_of_other_kinds() -> None:
    for data in (
        two_colours((0, 0, 0), (255, 255, 255)),
        two_colours((0, 0, 0), (1, 1, 1)),
        saved(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("RGBA")),
        saved(Image.fromarray(np.array([[False, True]])), "TIFF"),
        saved(Image.fromarray(np.array([[0, 255]], np.uint8)), "TIFF"),
    ):
        np.testing.assert_array_equal(decode_mask(data).salt, [[0, 1]])


def test_empty_and_full_masks() -> None:
    assert not decode_mask(png(np.zeros((3, 4), np.uint8))).salt.any()
    assert decode_mask(png(np.full((3, 4), 255, np.uint8))).salt.all()


@pytest.mark.parametrize("top", [np.uint8(255), np.uint16(65535)])
def test_grey_mask_is_refused_with_the_choice(top: np.generic) -> None:
    pixels = np.array([[0, 3, top, top]], top.dtype)
    with pytest.raises(DataError, match=rf"3 different values \(0, 3, {top}\); decide which of them are salt"):
        decode_mask(png(pixels))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (two_colours((255, 255, 255), (0, 0, 0)), "black for 0"),
        (two_colours((10, 10, 10), (200, 200, 200)), "black for 0"),
        (two_colours((0, 0, 0), (128, 0, 0)), "three channels differ"),
        (saved(Image.fromarray(np.zeros((9, 9), np.uint8)), "JPEG"), "a JPEG, which changes the values"),
        (png(np.dstack([rgb(GREY * 0), GREY])), "transparency varies"),
    ],
)
def test_a_mask_that_may_mean_two_things_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        decode_mask(data)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(GREY), "JPEG", exif=exif)


def tiff(pixels: np.ndarray, tags: dict[int, int]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    return saved(Image.fromarray(pixels), "TIFF", tiffinfo=info)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot be decoded: it is empty"),
        (b"not an image", "cannot be decoded: it is no PNG, TIFF or JPEG"),
        (saved(Image.fromarray(GREY), "GIF"), "cannot be decoded: it is no PNG, TIFF or JPEG"),
        (b"\xff\xd8\xff", "cannot be decoded as a JPEG"),
        (b"II*\0", "cannot be decoded as a TIFF"),
        (png(np.stack([GREY, GREY, GREY + np.uint8(1)], axis=2)), "three channels differ"),
        (png(np.dstack([rgb(GREY), GREY])), "transparency varies"),
        (png_header(3, 3, bits=7, data=bytes(12)), "cannot be decoded"),
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point values; scale them to 0..65535"),
        (saved(Image.fromarray(DEEP.astype(np.int32) - 1), "TIFF"), "values from -1 to 65534; scale them"),
        (saved(Image.fromarray(DEEP.astype(np.int32) * 2), "TIFF"), "values from 0 to 131070; scale them"),
        (saved(Image.fromarray(rgb(GREY)).convert("CMYK"), "JPEG"), "a JPEG of mode CMYK"),
        (saved(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "several images"),
        (saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY // 2)]), "several images"),
        (turned(), "save it upright"),
        (deep_channels(DEEP, 4), "16-bit grey with an alpha channel"),
        (tiff(DEEP, {262: 0}), "0 is white"),
        (tiff(GREY, {339: 2}), "a TIFF of signed 8-bit values, .*; save it as unsigned"),
        (two_colours((0, 0, 0)), "no colour 1"),
    ],
)
def test_other_files_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_before_decoding(size: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    for decode in (decode_image, decode_mask):
        with pytest.raises(DataError, match="the limit is 4096x4096"):
            decode(png_header(*size, data=bytes(100)))
    assert not recwarn.list


def test_largest_size_is_accepted() -> None:
    assert decode_image(png(np.zeros((1, MAX_SIDE), np.uint8))).shape == (1, MAX_SIDE)


def test_large_file_is_refused() -> None:
    with pytest.raises(DataError, match="67,108,865 bytes"):
        decode_image(bytes(MAX_BYTES + 1))


def same_or_refused(data: bytes) -> bool:
    """Whether a damaged file is refused; otherwise its pixels must be right."""
    try:
        pixels = decode_image(data)
    except DataError:
        return True
    np.testing.assert_array_equal(pixels, GREY)
    return False


WHOLE = png(GREY)
END = WHOLE.index(b"IEND")


@given(st.integers(0, len(WHOLE) - 1))
def test_truncated_file_is_refused(length: int) -> None:
    assert same_or_refused(WHOLE[:length]) or length >= END + 4


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray(WHOLE)
    data[bit // 8] ^= 1 << bit % 8
    assert same_or_refused(bytes(data)) or bit // 8 >= END - 4


def test_pillow_remarks_nothing(tmp_path: Path) -> None:
    data = saved(Image.fromarray(GREY), "TIFF").replace(
        struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 256, 4, 2**20)
    )
    (tmp_path / "a.tif").write_bytes(data)
    program = (
        "import pathlib; from saltray.data.images import decode_image; decode_image(pathlib.Path('a.tif').read_bytes())"
    )
    loud = "import PIL.Image; PIL.Image.open('a.tif')"
    for text, remark in ((loud, "UserWarning"), (program, "")):
        done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ("UserWarning" in done.stderr) == bool(remark)


@pytest.mark.parametrize("name", SAME)
def test_the_shape_is_known_without_decoding(name: str) -> None:
    assert image_shape(SAME[name]) == GREY.shape


def test_the_shape_of_a_bomb_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert image_shape(png_header(9000, 8000)) == (8000, 9000)


@pytest.mark.parametrize("data", [b"", b"GIF89a", SAME["grey"][:20], SAME["TIFF"][:6]])
def test_what_has_no_header_has_no_shape(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        image_shape(data)
