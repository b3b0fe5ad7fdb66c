"""Searches by real Ray Tune trials, each a real Ray Train job."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import saltray
from saltray.config import ClusterConfig, Config
from saltray.distributed.history import read_history
from saltray.errors import ConfigError, SearchFailedError
from saltray.storage.base import Store
from saltray.storage.names import open_store

Small = Callable[..., Config]
PAIRS = ClusterConfig(workers_per_fold=2, cpus_per_worker=0.5, max_failures=1)
BOUNDLESS = 1e30
"""A learning rate at which the first step ends all."""

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def rates(*values: float) -> dict[str, Any]:
    return {"optim.lr": saltray.choice(values)}


def test_a_search_of_pairs_hands_its_best_to_training(
    small: Small, tiles_folder: Path, any_store_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tiles_folder, any_store_uri, cluster=PAIRS)
    config = replace(config, train=replace(config.train, epochs=3))
    store = open_store(any_store_uri).sub("searches/s1")
    found = saltray.tune(config, space={"optim.lr": saltray.loguniform(1e-4, 1e-1)}, trials=4)
    shown = capsys.readouterr().out
    assert "a trial takes 2 ranks of 0.5 CPU; 2 at once" in shown
    assert re.search(r"trial-000  epoch +1/3  score 0\.\d{4}\n", shown)
    assert "\x1b" not in shown
    check_results(store, found, config)

    # Once more, and further: what has ended is kept to the byte.
    before = {name: store.get(f"{name}/result.json") for name in found.trials["trial"]}
    assert saltray.tune(config, space={"optim.lr": saltray.loguniform(1e-4, 1e-1)}, trials=4).score == found.score
    further = saltray.tune(config, space={"optim.lr": saltray.loguniform(1e-4, 1e-1)}, trials=5)
    assert "begun before: 4 trials, of which 4 are ended and kept" in capsys.readouterr().out
    assert {name: store.get(f"{name}/result.json") for name in before} == before
    assert list(further.trials["trial"]) == [f"trial-00{index}" for index in range(5)]
    with pytest.raises(ConfigError, match="search s1 was begun with other space"):
        saltray.tune(config, space=rates(1e-3))

    check_training(config, any_store_uri, further)


def check_results(store: Store, found: saltray.SearchResult, config: Config) -> None:
    frame = found.trials
    assert list(frame["trial"]) == [f"trial-00{index}" for index in range(4)]
    assert set(frame["status"]) <= {"finished", "stopped"}
    assert frame["epochs"].between(1, 3).all()
    assert frame["optim.lr"].between(1e-4, 1e-1).all()
    best = frame.set_index("trial").loc[found.best_trial]
    assert best["score"] == frame["score"].max() == found.score
    assert found.best_config == replace(config, optim=replace(config.optim, lr=best["optim.lr"]))
    pd.testing.assert_frame_equal(store.get_table("trials.parquet").to_pandas(), frame, check_dtype=False)
    assert store.get_json("best.json")["values"] == {"optim.lr": best["optim.lr"]}
    manifest = store.get_json("manifest.json")
    assert manifest["space"] == {"optim.lr": "log:0.0001:0.1"}
    assert manifest["config"]["cluster"]["workers_per_fold"] == 2
    assert store.get("search.png").startswith(b"\x89PNG")
    assert store.get("tensorboard/trial-000/events.out.tfevents.trial-000")
    # The checkpoints of trials that have ended take no room.
    assert not [entry.key for entry in store.list("") if "checkpoints/" in entry.key]


def check_training(config: Config, uri: str, found: saltray.SearchResult) -> None:
    result = saltray.train(replace(config, train=replace(config.train, epochs=1)), lr_from="searches/s1")
    rate = float(found.best_config.optim.lr)
    run = open_store(uri).get_json("runs/r1/manifest.json")
    assert run["config"]["optim"]["lr"] == rate
    manifest = saltray.read_manifest(result.ensemble)
    for origin in (run["origin"], manifest.origin):
        assert origin is not None
        assert (origin["search"], origin["trial"], origin["values"]) == ("s1", found.best_trial, {"optim.lr": rate})
    assert f"Found by search `s1`, {found.best_trial}: optim.lr {rate}." in saltray.model_card(manifest)


def test_a_diverged_trial_loses_and_the_search_goes_on(
    small: Small, tiles_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = saltray.tune(small(tiles_folder, tmp_path), space=rates(3e-3, BOUNDLESS), sampler="tpe", trials=2)
    lost = found.trials.set_index("optim.lr").loc[BOUNDLESS]
    assert lost["status"] == "diverged"
    assert "NaN or infinite in epoch 1" in lost["reason"]
    assert pd.isna(lost["score"])
    assert found.best_config.optim.lr == 3e-3
    assert f"{lost['trial']}  diverged after epoch 0: the loss" in capsys.readouterr().out


def test_a_search_in_which_all_fail_says_why(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path)
    for _ in range(2):  # the second time from what the store says
        with pytest.raises(
            SearchFailedError, match="none of 2 trials .* trial-000: the loss or its gradient"
        ) as caught:
            saltray.tune(config, space=rates(BOUNDLESS, 10 * BOUNDLESS))
        assert caught.value.exit_code == 1
        assert set(caught.value.failures) == {"trial-000", "trial-001"}


def test_a_failed_trial_is_tried_again_by_the_next_call(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path)
    store = open_store(str(tmp_path)).sub("searches/s1")
    # A folder where the first trial must write its history.
    obstacle = tmp_path / "searches/s1/trial-000/history.jsonl/x"
    obstacle.mkdir(parents=True)
    found = saltray.tune(config, space=rates(1e-3, 3e-3), prune=False)
    assert list(found.trials["status"]) == ["failed", "finished"]
    assert "history.jsonl" in found.trials["reason"][0]
    kept = store.get("trial-001/result.json")

    obstacle.rmdir()
    obstacle.parent.rmdir()
    mended = saltray.tune(config, space=rates(1e-3, 3e-3), prune=False)
    assert list(mended.trials["status"]) == ["finished", "finished"]
    assert list(mended.trials["optim.lr"]) == list(found.trials["optim.lr"])
    assert store.get("trial-001/result.json") == kept


def test_a_trial_whose_worker_is_killed_goes_on(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, cluster=ClusterConfig(max_failures=1))
    config = replace(config, train=replace(config.train, epochs=12))
    trial = open_store(f"{tmp_path}/searches/s1/trial-000")
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        while not trial.folders("checkpoints"):
            time.sleep(0.1)
        killed.extend(train_workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_checkpoint, daemon=True)
    killer.start()
    found = saltray.tune(config, space=rates(3e-3))
    killer.join()
    assert killed
    assert list(found.trials["status"]) == ["finished"]
    assert list(found.trials["epochs"]) == [12]
    assert [epoch["epoch"] for epoch in trial.get_json("result.json")["epochs"]] == list(range(1, 13))


def train_workers() -> list[int]:
    """Process ids of this machine's Ray Train workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::RayTrainWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_several_folds_are_averaged_epoch_by_epoch(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path)
    for name, folds in (("first", (0,)), ("second", (1,)), ("both", (0, 1))):
        saltray.tune(config, space=rates(3e-3), name=name, folds=folds)
    first, second, both = (
        read_history(open_store(f"{tmp_path}/searches/{name}/trial-000")) for name in ("first", "second", "both")
    )
    assert len(both) == 2
    for a, b, mean in zip(first, second, both, strict=True):
        for key in ("score", "valid_loss", "loss", "iou"):
            assert mean[key] == pytest.approx((a[key] + b[key]) / 2, abs=1e-6)


def test_a_range_test_suggests_a_rate(
    small: Small, tiles_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tiles_folder, tmp_path, cluster=PAIRS)
    found = saltray.range_test(config, steps=40)
    store = open_store(f"{tmp_path}/searches/s1")
    assert len(found.rates) == len(found.losses) == len(found.smooth)
    assert found.rates[0] == pytest.approx(1e-5)
    # Nothing is learnt at the lowest rates, whatever tiles are in the batch.
    assert found.smooth[:8] == pytest.approx(found.smooth[:1] * 8, rel=1e-3)
    assert found.losses[:8] != pytest.approx(found.smooth[:1] * 8, rel=1e-2)
    assert store.get_json("range-test.json")["suggestion"] == found.suggestion
    assert store.get("range-test.png").startswith(b"\x89PNG")
    assert "range-test" not in store.folders()  # what Ray Train kept for itself
    shown = capsys.readouterr().out
    assert (
        "no suggestion" if found.suggestion is None else f"suggested learning rate: {found.suggestion:.2g}"
    ) in shown
    # Again, with other settings: nothing of the first is taken for it.
    assert len(saltray.range_test(config, steps=5).rates) == 5


def test_search_and_training_in_one(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    result = saltray.run(small(tiles_folder, tmp_path), space=rates(1e-3, 3e-3), epochs=1)
    store = open_store(str(tmp_path))
    best = store.get_json("searches/r1/best.json")
    assert store.get_json("searches/r1/manifest.json")["config"]["train"]["epochs"] == 1
    manifest = saltray.read_manifest(result.ensemble)
    assert manifest.config["optim"]["lr"] == best["values"]["optim.lr"]
    assert manifest.config["train"]["epochs"] == 2
    assert manifest.origin is not None
    assert manifest.origin["trial"] == best["trial"]
