"""Masks of labelled tiles are scored in their order; and which tiles a run was trained on."""

import numpy as np
import pytest

from saltray.data.tiles import LabelledTiles
from saltray.runs.held_out import Scorer, training_ids
from saltray.storage.base import Store
from saltray.training.evaluation import Interval


def test_masks_are_scored_in_the_order_of_their_labels(tiles: LabelledTiles) -> None:
    # Two tiles without salt, one whose upper row of 3 is salt, and one that is all salt.
    scorer = Scorer(np.packbits(tiles.masks.reshape(4, -1), axis=1), (2, 3))
    empty, row, two = np.zeros((2, 3), np.uint8), tiles.masks[2], np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    for mask in (empty, row, two, tiles.masks[3]):  # right; wrong; IoU 2/3; right
        scorer.add(mask)
    found = scorer.result()
    assert (found.tiles, found.score) == (4, pytest.approx((1 + 0 + 0.4 + 1) / 4))
    assert found.interval.low < 0.6 < found.interval.high


def test_equal_scores_have_an_interval_without_width(tiles: LabelledTiles) -> None:
    scorer = Scorer(np.packbits(tiles.masks.reshape(4, -1), axis=1), (2, 3))
    for mask in tiles.masks:
        scorer.add(mask)
    assert scorer.result().interval == Interval(low=1.0, high=1.0)


def test_the_tiles_that_a_run_was_trained_on(store: Store) -> None:
    assert training_ids(store, "r1") is None
    store.put_json("runs/r1/folds.json", {"fold_of": {"a": 0, "b": 1}, "balance": []})
    assert training_ids(store, "r1") == {"a", "b"}
    store.put("runs/r1/folds.json", b"{")
    assert training_ids(store, "r1") is None
