"""Out-of-fold predictions are read beside the tiles that they are of, whatever the shards and parts."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tile_samples import pack_tiles, write_whole_fold
from torch import nn

from saltray.data.packed import PackedDataset
from saltray.data.tiles import LabelledTiles
from saltray.errors import IntegrityError
from saltray.runs import out_of_fold
from saltray.runs.history import EpochRecord
from saltray.runs.out_of_fold import open_out_of_fold, part_rows
from saltray.runs.records import FoldResult
from saltray.storage.base import Store

FOLD_OF = np.array([0, 2, 0, 0, 1, 0, 2, 1, 1])
EPOCH = EpochRecord(epoch=1, loss=1.0, lr=1e-3, seconds=4.0, images_per_second=9.0, at=100.0)


@pytest.fixture
def labelled() -> LabelledTiles:
    """Nine tiles of 2x5."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (9, 2, 5), np.uint8)
    return LabelledTiles(tuple("abcdefghi"), images, draw.integers(0, 2, images.shape).astype(np.uint8))


@pytest.fixture
def truth() -> NDArray[np.float16]:
    """A probability of its own for each pixel."""
    return (np.arange(90).reshape(9, 2, 5) / 128).astype(np.float16)


def put_fold(
    store: Store, fold: int, tiles: LabelledTiles, probabilities: NDArray[np.float16], rows: int = 2
) -> FoldResult:
    model = nn.Conv2d(1, 1, 1)
    return write_whole_fold(store.sub(f"fold-{fold}"), fold, tiles, model, probabilities, [EPOCH], rows=rows)


def put_folds(store: Store, tiles: LabelledTiles, probabilities: NDArray[np.float16]) -> list[FoldResult]:
    held_out = [np.flatnonzero(fold == FOLD_OF) for fold in range(3)]
    return [put_fold(store, fold, tiles.select(own), probabilities[own]) for fold, own in enumerate(held_out)]


def packed(store: Store, tiles: LabelledTiles, rows: int = 4) -> PackedDataset:
    return pack_tiles(store.sub("datasets/d"), tiles, rows=rows)


@pytest.mark.parametrize(("shard", "part"), [(9, 9), (4, 9), (4, 2), (1, 1)])
def test_predictions_of_all_folds_are_in_the_order_of_the_tiles(
    store: Store,
    labelled: LabelledTiles,
    truth: NDArray[np.float16],
    shard: int,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(out_of_fold, "part_rows", lambda height, width: part)
    results = put_folds(store, labelled, truth)
    with open_out_of_fold(store, results[::-1], packed(store, labelled, shard), FOLD_OF) as predictions:
        assert predictions.pixels == 10
        for _ in range(2):  # as often as one likes
            parts = list(predictions.parts())
            assert max(len(each.positions) for each in parts) <= min(shard, part)
            assert tuple(name for each in parts for name in each.tiles.ids) == labelled.ids
            for found, expected in (
                ([each.positions for each in parts], np.arange(9)),
                ([each.folds for each in parts], FOLD_OF),
                ([each.tiles.images for each in parts], labelled.images),
                ([each.tiles.masks for each in parts], labelled.masks),
                ([each.probabilities for each in parts], truth),
            ):
                np.testing.assert_array_equal(np.concatenate(found), expected)
        some = predictions.some([7, 1, 2])
        assert (some.positions.tolist(), some.folds.tolist(), some.tiles.ids) == ([1, 2, 7], [2, 0, 1], ("b", "c", "h"))
        np.testing.assert_array_equal(some.probabilities, truth[[1, 2, 7]])
        np.testing.assert_array_equal(some.tiles.masks, labelled.masks[[1, 2, 7]])


def test_tiles_of_folds_that_are_left_out_are_passed_over(
    store: Store, labelled: LabelledTiles, truth: NDArray[np.float16]
) -> None:
    results = put_folds(store, labelled, truth)
    with open_out_of_fold(store, results[1:2], packed(store, labelled), FOLD_OF) as predictions:
        parts = list(predictions.parts())
    assert np.concatenate([part.positions for part in parts]).tolist() == [4, 7, 8]
    np.testing.assert_array_equal(np.concatenate([part.probabilities for part in parts]), truth[[4, 7, 8]])


def test_predictions_of_other_tiles_are_refused(
    store: Store, labelled: LabelledTiles, truth: NDArray[np.float16]
) -> None:
    data, (result, *_) = packed(store, labelled), put_folds(store, labelled, truth)

    def read(result: FoldResult) -> None:
        with open_out_of_fold(store, [result], data, FOLD_OF) as predictions:
            list(predictions.parts())

    remedy = "train again under another run name"
    fewer = put_fold(store, 0, labelled.select(np.array([0, 2, 3])), truth[:3])
    with pytest.raises(IntegrityError, match=f"fold 0 has predictions of 3 tiles instead of 4; {remedy}"):
        read(fewer)
    others = put_fold(store, 0, labelled.select(np.array([0, 2, 4, 5])), truth[:4])
    with pytest.raises(
        IntegrityError, match=rf"fold-0/oof.parquet is of other tiles \(e in the place of d\); {remedy}"
    ):
        read(others)
    wide = LabelledTiles(tuple("acdf"), np.zeros((4, 3, 5), np.uint8), np.zeros((4, 3, 5), np.uint8))
    with pytest.raises(IntegrityError, match=f"is of other tiles, which do not have 2x5 pixels; {remedy}"):
        read(put_fold(store, 0, wide, np.zeros((4, 3, 5), np.float16)))
    for wrong in (np.nan, 1.5, -0.1):
        with pytest.raises(IntegrityError, match=f"has a probability beyond 0..1; {remedy}"):
            read(put_fold(store, 0, labelled.select(np.array([0, 2, 3, 5])), np.full((4, 2, 5), wrong, np.float16)))
    with pytest.raises(IntegrityError, match="its SHA-256 is"):
        read(result)


def test_parts_are_of_a_few_mib() -> None:
    assert part_rows(101, 101) == 411
    assert part_rows(32, 32) == 1024
    assert part_rows(4000, 4000) == 1
