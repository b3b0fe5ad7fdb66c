"""Run-length encoding, compared with masks encoded by hand and with the rules of the competition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from saltray.data.rle import decode_rle, encode_rle
from saltray.errors import DataError

from .mini import slow_rle

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))


def test_by_hand() -> None:
    # Numbers of the pixels:  1 3 5
    #                         2 4 6
    assert encode_rle(np.array([[0, 1, 1], [0, 1, 0]])) == "3 3"
    assert encode_rle(np.array([[1, 1, 1], [0, 0, 0]])) == "1 1 3 1 5 1"
    assert encode_rle(np.array([[0, 0, 0], [1, 0, 1]])) == "2 1 6 1"
    assert encode_rle(np.ones((2, 3))) == "1 6"
    assert encode_rle(np.zeros((2, 3))) == ""
    np.testing.assert_array_equal(decode_rle("2 1 6 1", 2, 3), [[0, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(decode_rle(" 1 1  2 2\n", 2, 3), [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(decode_rle("", 2, 3), np.zeros((2, 3)))


@given(MASKS)
def test_round_trip_by_the_rules(mask: NDArray[np.uint8]) -> None:
    text = encode_rle(mask)
    assert text == slow_rle(mask)
    back = decode_rle(text, *mask.shape)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, mask)


def test_any_non_zero_value_is_salt() -> None:
    assert encode_rle(np.array([[0, 65535, 256]], dtype=np.uint16)) == "2 2"
    assert encode_rle(np.array([[False, True, False]])) == "2 1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1", "pairs"),
        ("1 2 3", "pairs"),
        ("a b", "write integers"),
        ("1 -2", "write integers"),
        ("1.0 2", "write integers"),
        ("1 ٣", "write integers"),
        ("1 99999999999999999999", "write integers"),
        ("0 1", "starts before"),
        ("1 0", "shorter"),
        ("6 2", "ends after pixel 6"),
        ("7 1", "ends after pixel 6"),
        ("1 3 3 1", "overlaps"),
        ("4 1 1 1", "overlaps"),
        ("1 1 1 1", "overlaps"),
    ],
)
def test_invalid_text_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        decode_rle(text, 2, 3)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="0123456789 -x", max_size=20))
def test_any_text_is_decoded_exactly_or_refused(text: str) -> None:
    try:
        mask = decode_rle(text, 3, 4)
    except DataError:
        return
    # Adjacent runs are merged, so compare sets of pixels.
    numbers = [int(token) for token in text.split()]
    pixels = {start + k for start, length in zip(numbers[::2], numbers[1::2], strict=True) for k in range(length)}
    assert {int(n) + 1 for n in np.flatnonzero(mask.T.ravel())} == pixels
