"""Masks by hand, and the record that decides about them."""

import numpy as np
import pytest

from saltray.ensemble.postprocess import Postprocess, blank_tiles
from saltray.records import from_record, parse_record, to_record

PROBABILITIES = np.array([[[0.9, 0.4], [0.5, 0.1]], [[0.9, 0.1], [0.1, 0.1]], [[0.9, 0.9], [0.9, 0.9]]], np.float32)
IMAGES = np.array([[[1, 2], [3, 4]], [[9, 9], [9, 8]], [[0, 0], [0, 0]]], np.uint8)
"""The last tile is blank."""


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        (Postprocess(), [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),  # 0.5 is not above 0.5
        (Postprocess(threshold=0.45), [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),
        (Postprocess(threshold=0.45, min_area=2), [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        (Postprocess(threshold=0.45, min_area=3), [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        (Postprocess(threshold=0.45, blank_is_empty=True), [[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_masks_by_hand(rule: Postprocess, masks: list[list[int]]) -> None:
    found = rule.apply(PROBABILITIES, IMAGES)
    assert found.dtype == bool
    assert found.reshape(3, 4).astype(int).tolist() == masks


def test_half_precision_is_compared_in_single_precision() -> None:
    # 0.34 in half precision is a little more than 0.34.
    probabilities = np.full((1, 1, 1), 0.34, np.float16)
    assert np.float32(probabilities[0, 0, 0]) > np.float32(0.34)
    assert Postprocess(threshold=0.34).apply(probabilities, np.zeros((1, 1, 1), np.uint8)).all()


def test_a_tile_is_blank_where_all_pixels_are_equal() -> None:
    assert blank_tiles(IMAGES).tolist() == [False, False, True]
    assert blank_tiles(np.full((1, 2, 3), 255, np.uint8)).tolist() == [True]


def test_it_survives_json_and_reads_well() -> None:
    rule = Postprocess(threshold=0.46, min_area=30, blank_is_empty=True)
    assert from_record(Postprocess, to_record(rule)) == rule
    assert str(rule) == "threshold 0.46, masks below 30 pixels emptied, blank tiles emptied"
    assert str(Postprocess()) == "threshold 0.50"
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        parse_record(Postprocess, '{"threshold": 1.5}')
