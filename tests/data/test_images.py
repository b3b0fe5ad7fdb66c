"""Untrusted PNG files: sizes, bit depths, damage, decompression bombs."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saltray.data.images import MAX_BYTES, MAX_SIDE, decode_image, decode_mask
from saltray.errors import DataError

from .mini import png, png_header, rgb

GREY = np.arange(70, dtype=np.uint8).reshape(7, 10) * 3


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def test_grey_and_three_equal_channels_are_the_same_image() -> None:
    for data in (png(GREY), png(rgb(GREY))):
        image = decode_image(data)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, GREY)


def test_16_bit_image_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 128, 129, 257, 25700, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_image(png(wide)), [[0, 0, 1, 1, 100, 255]])
    np.testing.assert_array_equal(decode_image(png(np.zeros((2, 2), np.uint16))), np.zeros((2, 2)))
    with pytest.raises(DataError, match="largest value is 255"):
        decode_image(png(np.array([[0, 255]], np.uint16)))


@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (np.array([[0, 65535]], np.uint16), 16),
        (np.array([[0, 1]], np.uint16), 16),
        (np.array([[0, 256]], np.uint16), 16),
        (np.array([[0, 255]], np.uint8), 8),
        (np.array([[0, 1]], np.uint8), 8),
    ],
)
def test_salt_is_any_value_above_0(pixels: np.ndarray, bits: int) -> None:
    mask = decode_mask(png(pixels))
    np.testing.assert_array_equal(mask.salt, [[0, 1]])
    assert mask.salt.dtype == np.uint8
    assert mask.bits == bits


def test_empty_and_full_masks() -> None:
    assert not decode_mask(png(np.zeros((3, 4), np.uint8))).salt.any()
    assert decode_mask(png(np.full((3, 4), 255, np.uint8))).salt.all()


@pytest.mark.parametrize("top", [np.uint8(255), np.uint16(65535)])
def test_grey_mask_is_refused(top: np.generic) -> None:
    pixels = np.array([[0, 3, top, top]], top.dtype)
    with pytest.raises(DataError, match=rf"3 different values \(0, 3, {top}\)"):
        decode_mask(png(pixels))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot be decoded"),
        (b"not an image", "cannot be decoded"),
        (saved(Image.fromarray(GREY), "JPEG"), "cannot be decoded"),
        (saved(Image.fromarray(GREY).convert("P")), "mode P"),
        (saved(Image.fromarray(GREY).convert("RGBA")), "mode RGBA"),
        (saved(Image.fromarray(GREY).convert("LA")), "mode LA"),
        (saved(Image.fromarray(GREY).convert("1")), "mode 1"),
        (png(np.stack([GREY, GREY, GREY + np.uint8(1)], axis=2)), "three channels differ"),
        (png_header(3, 3, bits=7, data=bytes(12)), "cannot be decoded"),
    ],
)
def test_other_files_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        decode_image(data)
    if "channels" not in problem:
        with pytest.raises(DataError, match=problem):
            decode_mask(data)


def test_mask_of_three_channels_is_refused() -> None:
    with pytest.raises(DataError, match="mode RGB"):
        decode_mask(png(rgb(GREY * 0)))


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
