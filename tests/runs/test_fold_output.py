"""What a fold leaves in the store."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tile_samples import write_whole_fold
from torch import nn

from saltray.data.tiles import LabelledTiles
from saltray.errors import IntegrityError, NotFoundError
from saltray.runs.fold_output import snapshot_fault
from saltray.runs.history import EpochRecord
from saltray.runs.records import FoldResult, PredictionCost
from saltray.storage.base import Store

FIRST = EpochRecord(epoch=1, loss=1.0, lr=1e-3, seconds=4.0, images_per_second=9.0, at=100.0)
SECOND = replace(FIRST, epoch=2, seconds=5.0, at=107.0)


@pytest.mark.parametrize("rows", [4, 3, 1])
def test_weights_predictions_and_result_agree(store: Store, tiles: LabelledTiles, rows: int) -> None:
    """However many tiles are written at a time."""
    model = nn.Conv2d(1, 1, 3).to(memory_format=torch.channels_last)
    probabilities = tiles.masks.astype(np.float16)
    probabilities[3] = 0  # the last tile, all salt, is missed; the others are right
    cost = PredictionCost(score_without_tta=0.7, seconds=0.01, device="CPU")
    result = write_whole_fold(store, 1, tiles, model, probabilities, [FIRST, SECOND], cost=cost, rows=rows)
    assert store.get_record("result.json", FoldResult) == result
    assert (result.fold, result.tiles, result.epochs, result.cost) == (1, 4, 2, cost)
    assert result.score == 0.75
    assert result.iou == pytest.approx(3 / 9)
    assert result.dice == pytest.approx(0.5)
    assert (result.seconds, result.started) == (9.0, 96.0)
    weights = store.get("model.safetensors")
    assert hashlib.sha256(weights).hexdigest() == result.weights_sha256
    assert {key: value.tolist() for key, value in load(weights).items()} == {
        key: value.tolist() for key, value in model.state_dict().items()
    }
    table = store.get_table("oof.parquet", sha256=result.oof_sha256)
    assert table["id"].to_pylist() == list(tiles.ids)
    rows = [np.frombuffer(row, np.float16).reshape(2, 3) for row in table["probability"].to_pylist()]
    assert np.array_equal(rows, probabilities)


def test_the_result_comes_last(store: Store, tiles: LabelledTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise OSError("the store is full")

    monkeypatch.setattr(type(store), "put_file", refuse)
    with pytest.raises(OSError, match="full"):
        write_whole_fold(store, 0, tiles, nn.Conv2d(1, 1, 1), tiles.masks.astype(np.float16), [FIRST])
    assert not store.exists("result.json")


@pytest.mark.parametrize("rows", [4, 3, 1])
def test_several_snapshots_predict_their_mean(store: Store, tiles: LabelledTiles, rows: int) -> None:
    models = [nn.Conv2d(1, 1, 3) for _ in range(3)]
    truth = tiles.masks.astype(np.float16)
    parts = [truth, np.zeros_like(truth), (0.75 * truth).astype(np.float16)]
    for cycle, model, part in zip((3, 4), models, parts, strict=False):
        write_whole_fold(store.sub(f"snapshot-{cycle}"), 1, tiles, model, part, [FIRST], (cycle,))
        assert snapshot_fault(store, cycle) is None
    result = write_whole_fold(store, 1, tiles, models[2], parts[2], [FIRST, SECOND], (3, 4, 5), rows=rows)
    assert store.get_record("result.json", FoldResult) == result
    assert [(one.cycle, one.key) for one in result.models] == [
        (3, "snapshot-3/model.safetensors"),
        (4, "snapshot-4/model.safetensors"),
        (5, "model.safetensors"),
    ]
    assert [one.sha256 for one in result.models] == [
        hashlib.sha256(store.get(one.key)).hexdigest() for one in result.models
    ]
    assert result.weights_sha256 == result.models[-1].sha256
    empty = float((~tiles.masks.any(axis=(1, 2))).mean())
    assert [one.score for one in result.models] == [1, empty, 1]
    table = store.get_table("oof.parquet", sha256=result.oof_sha256)
    rows = [np.frombuffer(row, np.float16).reshape(2, 3) for row in table["probability"].to_pylist()]
    np.testing.assert_allclose(rows, truth * 1.75 / 3, atol=1e-3)
    assert result.score == 1  # of the mean, 0.58 where there is salt


def test_a_fold_without_one_of_its_snapshots_has_no_result(store: Store, tiles: LabelledTiles) -> None:
    model, probabilities = nn.Conv2d(1, 1, 3), tiles.masks.astype(np.float16)
    with pytest.raises(NotFoundError, match="snapshot-1/result.json"):
        write_whole_fold(store, 1, tiles, model, probabilities, [FIRST], (1, 2))
    other = LabelledTiles(tuple(f"{tile}x" for tile in tiles.ids), tiles.images, tiles.masks)
    write_whole_fold(store.sub("snapshot-1"), 1, other, model, probabilities, [FIRST])
    with pytest.raises(IntegrityError, match=r"snapshot-1/oof.parquet is of other tiles \(ax in the place of a\)"):
        write_whole_fold(store, 1, tiles, model, probabilities, [FIRST], (1, 2))
    assert not store.exists("result.json")


@pytest.mark.parametrize("name", ["result.json", "model.safetensors", "oof.parquet"])
def test_a_snapshot_that_is_damaged_or_incomplete_has_a_fault(store: Store, tiles: LabelledTiles, name: str) -> None:
    key = f"snapshot-2/{name}"
    write_whole_fold(
        store.sub("snapshot-2"), 1, tiles, nn.Conv2d(1, 1, 3), tiles.masks.astype(np.float16), [FIRST], (2,)
    )
    store.put(key, store.get(key)[:-1] + b"?")
    assert key in (snapshot_fault(store, 2) or "")
    store.delete(key)
    assert key in (snapshot_fault(store, 2) or "")
