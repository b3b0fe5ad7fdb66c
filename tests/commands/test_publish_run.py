"""What the last fold of a run is followed by: the ensemble, its score and the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray_session import Recorded
from samples import read_events

import saltray
from saltray.config import Config
from saltray.data.raw import read_tiles
from saltray.storage.uri import open_store
from saltray.training.metrics import Counts

from .conftest import store_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def probabilities(result: saltray.TrainResult) -> Any:
    """[N, H * W] of all tiles, out of fold."""
    table = store_of(result).get_table(f"runs/{result.run}/oof.parquet")
    return np.stack([np.frombuffer(row, np.float16) for row in table["probability"].to_pylist()]).astype(np.float32)


def test_the_ensemble_predicts_the_mean_of_its_members_and_out_of_fold_each_its_own(
    finished: Recorded[saltray.TrainResult], tiles_folder: Path
) -> None:
    result = finished.result
    tiles = read_tiles(str(tiles_folder))
    ensemble = saltray.Ensemble.load(result.ensemble)
    assert result.ensemble.endswith("/ensembles/r1/v1")
    assert ensemble.manifest.score == result.score
    assert [member.fold for member in ensemble.manifest.members] == [0, 1]
    some = slice(0, 8)
    whole = ensemble.predict(tiles.images[some])
    alone = [saltray.Ensemble(ensemble.manifest, [model], ensemble.device) for model in ensemble.models]
    singles = [one.predict(tiles.images[some]) for one in alone]
    np.testing.assert_allclose(whole, (singles[0] + singles[1]) / 2, atol=1e-6)
    fold_of = store_of(result).get_json("runs/r1/folds.json")["fold_of"]
    held_out = np.array([fold_of[tile] for tile in tiles.ids])[some]
    assert set(held_out) == {0, 1}
    expected = np.where((held_out == 0)[:, None, None], singles[0], singles[1])
    np.testing.assert_allclose(probabilities(result)[some].reshape(expected.shape), expected, atol=2e-3)
    assert result.baseline == pytest.approx((~tiles.masks.any(axis=(1, 2))).mean())
    manifest = ensemble.manifest
    assert (manifest.postprocess, manifest.evaluation) == (result.postprocess, result.evaluation)
    assert [row.fold for row in result.evaluation.folds] == [0, 1]
    assert result.evaluation.score + result.evaluation.optimism == pytest.approx(result.score_at_threshold)
    alone, mirrored, *_ = result.evaluation.prices
    assert alone.score is not None
    assert mirrored.score == pytest.approx(result.score)
    masks = result.postprocess.apply(probabilities(result).reshape(tiles.images.shape), tiles.images)
    counts = Counts.of(torch.from_numpy(masks).float(), torch.from_numpy(tiles.masks), 0.5)
    assert counts.score == pytest.approx(result.score_at_threshold)
    page = store_of(result).get("runs/r1/report.html").decode()
    assert result.ensemble in page
    assert f"{result.evaluation.score:.4f}" in page


def test_tensorboard_has_each_fold_and_some_of_its_held_out_tiles(
    finished: Recorded[saltray.TrainResult], copied: Config
) -> None:
    original = store_of(finished.result)
    fold_of = original.get_json("runs/r1/folds.json")["fold_of"]
    key = "runs/r1/tensorboard/fold-{0}/events.out.tfevents.fold-{0}".format
    for fold in (0, 1):
        events = list(read_events(original.get(key(fold))))
        assert [event.step for event, value in events if value.tag == "loss"] == [1, 2]
        shown = [value.tag for _, value in events if value.HasField("image")]
        assert {tag.partition("/")[0] for tag in shown} == {"best", "median", "worst"}
        assert {fold_of[tag.partition("/")[2]] for tag in shown} == {fold}
    store = open_store(copied.store)
    store.delete_prefix("runs/r1/tensorboard")
    saltray.train(copied)
    assert [store.get(key(fold)) for fold in (0, 1)] == [original.get(key(fold)) for fold in (0, 1)]
