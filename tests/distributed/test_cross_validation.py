"""Runs of real Ray Train jobs: published, resumed, broken and mended, equal for one rank and two."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saltray
from saltray.config import ClusterConfig, Config
from saltray.data.raw import read_tiles
from saltray.distributed.history import read_history
from saltray.errors import ConfigError, FoldsFailedError, ResourceError
from saltray.storage.names import open_store

Small = Callable[..., Config]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def test_a_broken_fold_leaves_the_others_and_is_mended_alone(
    small: Small, tiles_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tiles_folder, tmp_path, folds=5)
    run = open_store(f"{tmp_path}/runs/r1")
    # A folder where fold 2 must write its weights.
    obstacle = tmp_path / "runs/r1/fold-2/model.safetensors/x"
    obstacle.mkdir(parents=True)

    with pytest.raises(FoldsFailedError, match="1 of 5 folds failed") as caught:
        saltray.train(config)
    assert set(caught.value.failures) == {2}
    assert [fold for fold in range(5) if run.exists(f"fold-{fold}/result.json")] == [0, 1, 3, 4]
    assert not open_store(str(tmp_path)).folders("ensembles")
    results = [run.get_json(f"fold-{fold}/result.json") for fold in (0, 1, 3, 4)]
    # Four at once: the last began before the first ended.
    assert max(row["started"] for row in results[:3]) < min(row["finished"] for row in results[:3])

    obstacle.rmdir()
    obstacle.parent.rmdir()
    before = {fold: run.get(f"fold-{fold}/result.json") for fold in (0, 1, 3, 4)}
    done = saltray.train(config)
    assert {fold: run.get(f"fold-{fold}/result.json") for fold in (0, 1, 3, 4)} == before
    assert "finished before: fold 0, 1, 3, 4" in capsys.readouterr().out
    assert done.ensemble.endswith("ensembles/r1/v1")
    assert [row.fold for row in done.results] == [0, 1, 2, 3, 4]

    # Once more: nothing is left to train, and the same version comes back.
    assert saltray.train(config) == done
    with pytest.raises(ConfigError, match=r"begun with other train.seed \(0\)"):
        saltray.train(replace(config, train=replace(config.train, seed=1)))


def test_one_rank_and_two_give_the_same_run(small: Small, tiles_folder: Path, any_store_uri: str) -> None:
    store = open_store(any_store_uri)
    pairs = ClusterConfig(workers_per_fold=2, max_failures=0)
    one = saltray.train(small(tiles_folder, any_store_uri, run="one"))
    two = saltray.train(small(tiles_folder, any_store_uri, run="two", cluster=pairs))
    for fold in range(2):
        losses = [
            [(row["loss"], row["valid_loss"]) for row in read_history(store.sub(f"runs/{run}/fold-{fold}"))]
            for run in ("one", "two")
        ]
        assert len(losses[0]) == 2
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert probabilities(store, "one") == pytest.approx(probabilities(store, "two"), abs=5e-3)
    assert one.threshold == pytest.approx(two.threshold, abs=0.05)
    # What a checkpoint needs to be whole, and Ray's own books beside it, went through the same store.
    assert store.exists("runs/two/fold-0/checkpoints/epoch-00001/manifest.json")
    assert store.exists("runs/two/fold-0/checkpoint_manager_snapshot.json")
    check_ensemble(tiles_folder, store, one)


def probabilities(store: Any, run: str) -> Any:
    rows = store.get_table(f"runs/{run}/oof.parquet")["probability"].to_pylist()
    return np.stack([np.frombuffer(row, np.float16) for row in rows]).astype(np.float32)


def check_ensemble(tiles_folder: Path, store: Any, result: saltray.TrainResult) -> None:
    """The published ensemble predicts the mean of its members, and out of fold each member its own tiles."""
    tiles = read_tiles(str(tiles_folder))
    ensemble = saltray.Ensemble.load(result.ensemble)
    assert ensemble.manifest.score == result.score
    assert [member.fold for member in ensemble.manifest.members] == [0, 1]
    fold_of = store.get_json(f"runs/{result.run}/folds.json")["fold_of"]
    whole = ensemble.predict(tiles.images)
    assert whole.shape == tiles.images.shape
    singles = []
    for index in range(2):
        alone = saltray.Ensemble(ensemble.manifest, [ensemble.models[index]], ensemble.device)
        singles.append(alone.predict(tiles.images))
    np.testing.assert_allclose(whole, (singles[0] + singles[1]) / 2, atol=1e-6)
    held_out = np.array([fold_of[tile] for tile in tiles.ids])
    expected = np.where((held_out == 0)[:, None, None], singles[0], singles[1])
    out_of_fold = probabilities(store, result.run).reshape(expected.shape)
    np.testing.assert_allclose(out_of_fold, expected, atol=2e-3)


def test_a_killed_worker_goes_on_from_its_last_checkpoint(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, cluster=ClusterConfig(max_failures=1))
    config = replace(config, train=replace(config.train, epochs=12))
    fold = open_store(f"{tmp_path}/runs/r1/fold-0")
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        while not fold.folders("checkpoints"):
            time.sleep(0.1)
        killed.extend(train_workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_checkpoint, daemon=True)
    killer.start()
    result = saltray.train(config)
    killer.join()
    assert killed
    assert [row.epochs for row in result.results] == [12, 12]
    for k in range(2):
        epochs = [row["epoch"] for row in read_history(open_store(f"{tmp_path}/runs/r1/fold-{k}"))]
        assert epochs == list(range(1, 13))


def train_workers() -> list[int]:
    """Process ids of this machine's Ray Train workers."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if "ray::RayTrainWorker" in line]


def test_more_than_the_cluster_has_is_refused_before_training(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, cluster=ClusterConfig(gpus_per_worker=1))
    with pytest.raises(ResourceError, match="1 rank of 1 GPU and 1 CPU, but the cluster has"):
        saltray.train(config)


def test_predict_streams_every_tile(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    result = saltray.train(small(tiles_folder, tmp_path / "store"))
    out = tmp_path / "out"
    done = saltray.predict(
        ensemble=result.ensemble,
        data=str(tiles_folder),
        out=out / "submission.csv",
        masks=out / "masks",
        probabilities=out / "probabilities.parquet",
    )
    assert done.tiles == 6
    check_prediction(tiles_folder, result, out)


def check_prediction(tiles_folder: Path, result: saltray.TrainResult, out: Path) -> None:
    import pandas as pd
    from PIL import Image

    from saltray.data.rle import decode_rle

    sample = pd.read_csv(tiles_folder / "sample_submission.csv")
    rows = pd.read_csv(out / "submission.csv", keep_default_na=False)
    assert list(rows.columns) == ["id", "rle_mask"]
    assert list(rows["id"]) == sorted(sample["id"])
    tiles = read_tiles(str(tiles_folder), part="test")
    expected = saltray.Ensemble.load(result.ensemble).predict(tiles.images)
    table = pd.read_parquet(out / "probabilities.parquet")
    for index, (row, kept) in enumerate(zip(rows.itertuples(), table.itertuples(), strict=True)):
        truth = (expected[index] > result.threshold).astype(np.uint8)
        assert row.id == kept.id == tiles.ids[index]
        np.testing.assert_array_equal(decode_rle(row.rle_mask, 101, 101), truth)
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"masks/{row.id}.png")), truth * 255)
        np.testing.assert_allclose(np.frombuffer(kept.probability, np.float16), expected[index].ravel(), atol=1e-3)
