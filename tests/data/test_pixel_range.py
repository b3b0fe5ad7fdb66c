"""What grey values mean: 8-bit images are used as they are, 16-bit ones are scaled by the data set's maximum."""

import numpy as np
import pytest

from saltray.data.pixel_range import PixelRange, range_of, scale_as_before
from saltray.errors import DataError
from saltray.records import RecordError, from_record, to_record

EIGHT = PixelRange(bits=8, maximum=255)
TWELVE = PixelRange(bits=16, maximum=4095)


def deep(*values: int) -> np.ndarray:
    return np.array([values], np.uint16)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
def test_every_range_of_16_bit_files_keeps_256_grey_levels(bits: int) -> None:
    top = 2**bits - 1
    images = [deep(*range(200)), deep(*range(top + 1)), deep(0)]  # one dark, one with the whole range, one black
    scale = range_of(16, int(max(image.max() for image in images)))
    assert scale == PixelRange(bits=16, maximum=top)
    assert f"{bits}-bit range in 16-bit files, scaled by the data set's maximum {top}" in str(scale)
    pixels, clipped = scale.scale(images[1])
    assert not clipped
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, [[round(value * 255 / top) for value in range(top + 1)]])
    assert len(np.unique(pixels)) == 256


def test_the_maximum_need_not_be_a_power_of_two() -> None:
    scale = range_of(16, 3000)
    assert (scale.maximum, str(scale)[:6]) == (3000, "12-bit")
    assert scale.scale(deep(0, 1500, 3000)).pixels.tolist() == [[0, 128, 255]]


def test_values_of_8_bits_in_16_bit_files_are_used_as_they_are() -> None:
    for images in ([deep(0, 200)], [deep(0, 0)]):
        scale = range_of(16, int(max(image.max() for image in images)))
        assert scale == PixelRange(bits=16, maximum=255)
        np.testing.assert_array_equal(scale.scale(images[0]).pixels, images[0])


def test_8_bit_images_are_used_as_they_are() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert range_of(8, 77) == EIGHT
    assert range_of(16, 77) == PixelRange(bits=16, maximum=255)
    np.testing.assert_array_equal(EIGHT.scale(image).pixels, image)


def test_what_is_brighter_than_the_data_set_is_clipped_and_told() -> None:
    scale = PixelRange(bits=16, maximum=3000)
    assert scale.scale(deep(0, 3001, 4095)) == (pytest.approx(np.array([[0, 255, 255]])), True)


@pytest.mark.parametrize("maximum", [255, 2039, 2059, 4095, 4096, 40_000])
def test_the_excess_that_is_clipped_is_a_share_of_the_maximum(maximum: int) -> None:
    scale = PixelRange(bits=16, maximum=maximum)
    assert not scale.scale(deep(maximum)).clipped
    for top in (maximum + 1, min(2 * maximum, 65535)):
        assert scale.scale(deep(top)).clipped
    if 2 * maximum < 65535:
        with pytest.raises(DataError, match=f"values up to {2 * maximum + 1}, .* at most {maximum},"):
            scale.scale(deep(2 * maximum + 1))


@pytest.mark.parametrize(
    ("scale", "image", "problem"),
    [
        (TWELVE, deep(0, 8191), "values up to 8191, but the training images have at most 4095, which is white; scale"),
        (TWELVE, np.zeros((1, 1), np.uint8), "an 8-bit image, but the training images have 16 bits"),
        (EIGHT, deep(0, 4095), "a 16-bit image, but the training images have 8 bits"),
    ],
)
def test_an_image_of_another_range_is_refused(scale: PixelRange, image: np.ndarray, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        scale.scale(image)


def test_ensembles_without_a_range_have_that_of_their_time() -> None:
    wide = deep(0, 128, 129, 257, 25700, 65535)
    np.testing.assert_array_equal(scale_as_before(wide).pixels, [[0, 0, 1, 1, 100, 255]])
    narrow = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(scale_as_before(narrow).pixels, narrow)


def test_a_range_is_a_record() -> None:
    assert from_record(PixelRange, to_record(TWELVE)) == TWELVE == PixelRange(bits=16, maximum=4095)
    for wrong in ({"bits": 12, "maximum": 4095}, {"bits": 16, "maximum": 0}, {"bits": 16, "maximum": 70000}):
        with pytest.raises(RecordError):
            from_record(PixelRange, wrong)
