"""What a fold leaves in the store."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from saltray.data.tiles import LabelledTiles
from saltray.runs.fold_output import write_fold
from saltray.runs.history import EpochRecord
from saltray.runs.records import FoldResult, PredictionCost
from saltray.storage.base import Store

FIRST = EpochRecord(epoch=1, loss=1.0, lr=1e-3, seconds=4.0, images_per_second=9.0, at=100.0)
SECOND = replace(FIRST, epoch=2, seconds=5.0, at=107.0)


def test_weights_predictions_and_result_agree(store: Store, tiles: LabelledTiles) -> None:
    model = nn.Conv2d(1, 1, 3).to(memory_format=torch.channels_last)
    probabilities = tiles.masks.astype(np.float16)
    probabilities[3] = 0  # the last tile, all salt, is missed; the others are right
    cost = PredictionCost(score_without_tta=0.7, seconds=0.01, device="CPU")
    result = write_fold(store, 1, tiles, model, probabilities, [FIRST, SECOND], cost)
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

    monkeypatch.setattr(type(store), "put_table", refuse)
    with pytest.raises(OSError, match="full"):
        write_fold(store, 0, tiles, nn.Conv2d(1, 1, 1), tiles.masks.astype(np.float16), [FIRST])
    assert not store.exists("result.json")
