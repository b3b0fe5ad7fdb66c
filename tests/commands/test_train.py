"""Runs of real Ray Train jobs: published, resumed, broken and mended, and what they tell meanwhile."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ceph import Ceph
from command import Live, upload
from ray_session import Recorded, record
from safetensors.torch import load

import saltray
from saltray.config import ClusterConfig, Config, FoldConfig, PseudoLabelConfig
from saltray.data.raw import read_tiles
from saltray.errors import ConfigError, FoldsFailedError, ResourceError, RunLockedError, StorageError
from saltray.progress import (
    CapacityFound,
    DataNote,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldResumed,
    FoldsFinishedBefore,
    FoldsMissing,
    FoldStarted,
    LockTakenOver,
    Published,
    RunPlanned,
)
from saltray.records import to_record
from saltray.runs.layout import fold_folder
from saltray.runs.pseudo_labels import read_labels
from saltray.runs.records import FoldResult, RunManifest
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.uri import open_store

from .conftest import check_resumed, killed_once, note_something, store_of

Finished = Recorded[saltray.TrainResult]
Small = Callable[..., Config]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def test_a_run_prints_nothing_and_tells_its_observer_all(finished: Finished) -> None:
    assert finished.printed == ""
    planned, capacity, *_, published = finished.events
    assert isinstance(planned, RunPlanned)
    assert (planned.run, planned.tiles, planned.epochs, planned.steps, planned.ranks) == ("r1", 24, 2, 3, 1)
    assert capacity == CapacityFound(
        where="Ray on this machine", job="fold", needs="1 rank of 1 CPU", jobs=2, concurrency=2, ready=2, folds=(0, 1)
    )
    assert published == Published(finished.result.ensemble)
    assert set(finished.kinds[2:-1]) == {"FoldStarted", "FoldEpoch", "FoldFinished"}
    assert finished.events[2:4] == [FoldStarted(0), FoldStarted(1)]  # both at once
    for fold, result in enumerate(finished.result.results):
        told = [event for event in finished.events if getattr(event, "fold", None) == fold]
        assert [type(event) for event in told] == [FoldStarted, FoldEpoch, FoldEpoch, FoldFinished]
        epochs = [event for event in told if isinstance(event, FoldEpoch)]
        assert [event.epoch for event in epochs] == [1, 2]
        assert told[-1] == FoldFinished(fold=fold, score=result.score, seconds=result.seconds, queued=0)
        assert epochs[-1].score == pytest.approx(
            result.score, abs=0.2
        )  # of the same weights, without the mirror images


def test_a_finished_run_is_not_trained_again(copied: Config, finished: Finished) -> None:
    again = record(saltray.train, copied)
    assert again.kinds == ["RunPlanned", "FoldsFinishedBefore", "Published"]
    assert again.of(FoldsFinishedBefore) == [FoldsFinishedBefore((0, 1))]
    assert again.printed == ""
    assert again.result == replace(finished.result, ensemble=again.result.ensemble, report=again.result.report)
    assert again.result.ensemble == f"{copied.store}/ensembles/r1/v1"  # the same version
    with pytest.raises(ConfigError, match=r"run r1 was started with other train.seed \(0\)"):
        saltray.train(replace(copied, train=replace(copied.train, seed=1)))


def test_the_default_observer_logs_under_saltray(copied: Config, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="saltray"):
        result = saltray.train(copied)
    assert {log.name for log in caplog.records} == {"saltray"}
    assert caplog.messages[1:] == ["finished before: fold 0, 1", f"published {result.ensemble}"]
    assert caplog.messages[0].startswith("run r1: 24 tiles of 101x101, padded to 128; 2 epochs of up to 3 steps of 4")


def test_the_lock_of_a_process_that_died_is_taken_over(copied: Config, stale_lock: Callable[[Store], str]) -> None:
    owner = stale_lock(open_store(f"{copied.store}/runs/r1"))
    assert record(saltray.train, copied).events[0] == LockTakenOver(owner)


def test_what_is_unusual_of_the_data_set_is_told(copied: Config) -> None:
    note_something(open_store(copied.store))
    assert record(saltray.train, copied).events[0] == DataNote("something")


def test_a_second_process_is_refused(copied: Config) -> None:
    home = open_store(f"{copied.store}/runs/r1")
    before = {entry.key: entry.tag for entry in home.list() if not entry.key.startswith("lock/")}
    with RunLock(home, "run r1", beat=0.05), pytest.raises(RunLockedError, match="run r1 is being run by process"):
        saltray.train(copied)
    assert {entry.key: entry.tag for entry in home.list() if not entry.key.startswith("lock/")} == before


def test_more_than_the_cluster_has_is_refused_before_training(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, cluster=ClusterConfig(gpus_per_worker=1))
    with pytest.raises(ResourceError, match="1 rank of 1 GPU and 1 CPU, but the cluster has"):
        saltray.train(config)
    assert not [*tmp_path.rglob("*.*")]


def test_a_broken_fold_leaves_the_other_and_is_mended_alone(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, epochs=1)
    run = open_store(f"{tmp_path}/runs/r1")
    # A folder where fold 0 must write its weights.
    obstacle = tmp_path / "runs/r1/fold-0/model.safetensors/x"
    obstacle.mkdir(parents=True)
    events: list[Any] = []
    told = r"model\.safetensors: .*; 1 of 2 folds are finished, and the same command trains the others"
    with pytest.raises(StorageError, match=told):
        saltray.train(config, observer=events.append)
    assert [event.fold for event in events if isinstance(event, FoldFailed)] == [0]
    assert [event.fold for event in events if isinstance(event, FoldFinished)] == [1]
    assert b"a folder exists where a file is needed" in run.get("fold-0/error.txt")
    kept = run.get("fold-1/result.json")
    assert not run.exists("fold-0/result.json")
    assert not open_store(str(tmp_path)).folders("ensembles")

    obstacle.rmdir()
    obstacle.parent.rmdir()
    run.put("fold-1/error.txt", b"its controller died when the result was written")
    mended = record(saltray.train, config)
    assert mended.of(FoldsFinishedBefore) == [FoldsFinishedBefore((1,))]
    assert mended.of(FoldStarted) == [FoldStarted(0)]
    assert run.get("fold-1/result.json") == kept
    assert not any(run.exists(f"fold-{fold}/error.txt") for fold in range(2))
    assert [row.fold for row in mended.result.results] == [0, 1]


def test_some_folds_are_trained_now_and_the_rest_later(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, epochs=1)
    config = replace(config, optim=replace(config.optim, schedule="constant"))
    store = open_store(str(tmp_path))
    some = record(saltray.train, config, only_folds=[1])
    assert some.of(FoldStarted) == [FoldStarted(1)]
    assert some.events[-1] == FoldsMissing("r1", (0,))
    result = store.get_record("runs/r1/fold-1/result.json", FoldResult)
    assert some.result == saltray.PartialResult(run="r1", results=(result,), missing=(0,))
    assert store.folders() == ["datasets", "runs"]
    assert not store.exists("runs/r1/oof.parquet")
    assert record(saltray.train, config, only_folds=[1]).kinds == ["RunPlanned", "FoldsFinishedBefore", "FoldsMissing"]

    rest = record(saltray.train, config, only_folds=[0])  # now all are there
    assert rest.of(FoldStarted) == [FoldStarted(0)]
    assert isinstance(rest.result, saltray.TrainResult)
    assert rest.result.results[1] == result
    assert rest.result.ensemble == f"{tmp_path}/ensembles/r1/v1"

    # And longer: from the last epoch, as another version.
    longer = record(saltray.train, replace(config, train=replace(config.train, epochs=2)))
    assert {event.epoch for event in longer.of(FoldEpoch)} == {2}
    assert sorted(event.fold for event in longer.of(FoldResumed)) == [0, 1]
    assert longer.result.ensemble == f"{tmp_path}/ensembles/r1/v2"
    assert [row.epochs for row in longer.result.results] == [2, 2]
    first = saltray.Ensemble.load(rest.result.ensemble)
    assert first.manifest.config.train.epochs == 1


@pytest.mark.parametrize(
    ("folds", "told"),
    [
        ((2,), "only_folds names fold 2; the split has folds 0 to 1"),
        ((-1,), "only_folds names fold -1; "),
        ((), "only_folds names no fold; "),
        ((1, 0, 1), "only_folds 1, 0, 1 lists one twice; "),
    ],
)
def test_folds_that_are_not_there_are_refused(
    small: Small, tiles_folder: Path, tmp_path: Path, folds: tuple[int, ...], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        saltray.train(small(tiles_folder, tmp_path), only_folds=folds)
    assert not [*tmp_path.iterdir()]


def test_a_fold_that_would_fail_again_asks_for_another_run(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saltray.distributed import fold_jobs

    def train_folds(jobs: list[Any], *_: Any) -> list[Any]:
        return [fold_jobs.FoldOutcome(job.folds[0], failure="the loss is NaN", retryable=False) for job in jobs]

    monkeypatch.setattr(fold_jobs, "train_folds", train_folds)
    with pytest.raises(FoldsFailedError, match=r"2 of 2 folds failed \(0, 1\): .* choose another run name"):
        saltray.train(small(tiles_folder, tmp_path))


def test_each_fold_starts_from_its_member_of_the_version_that_the_run_began_with(
    copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from saltray.distributed import fold_jobs

    started: list[list[Any]] = []

    def train_folds(jobs: list[Any], *_: Any) -> list[Any]:
        started.append([ray.get(job.initial_weights[job.folds[0]]) for job in jobs])
        return [fold_jobs.FoldOutcome(job.folds[0], failure="lost") for job in jobs]

    monkeypatch.setattr(fold_jobs, "train_folds", train_folds)
    store, uri = open_store(copied.store), f"{copied.store}/ensembles/r1"
    tuned = replace(copied, run="r2", model=replace(copied.model, weights=uri))
    for _ in range(2):
        with pytest.raises(FoldsFailedError):
            saltray.train(tuned)
        manifest = store.get_json("runs/r2/manifest.json")["initial_weights"]
        assert (manifest["uri"], manifest["members"]) == (f"{uri}/v1", [0, 1])
        store.put_json("ensembles/r1/v2/manifest.json", {})  # a later version, which is not for this run
        store.put("runs/r2/fold-0/checkpoints/epoch-00001/manifest.json", b"{}")
    for fold in range(2):
        member = load(store.get(f"ensembles/r1/v1/fold-{fold}.safetensors"))
        for weights in started:
            assert all(np.array_equal(weights[fold][name], tensor.numpy()) for name, tensor in member.items())
    other = replace(
        copied, run="r3", folds=FoldConfig(count=2, seed=1), model=replace(copied.model, weights=f"{uri}/v1")
    )
    with pytest.raises(ConfigError, match=r"fold \d holds out \d+ tiles that the model of fold"):
        saltray.train(other)
    assert not store.exists("runs/r3/manifest.json")


def test_test_tiles_with_the_labels_of_an_earlier_ensemble(copied: Config) -> None:
    """Fold 1 by two ranks, then fold 0 by one; the models of each have not seen what it holds out."""
    store, uri = open_store(copied.store), f"{copied.store}/ensembles/r1"
    second = replace(
        copied, run="r2", pseudo_labels=PseudoLabelConfig(ensemble=uri), train=replace(copied.train, epochs=1)
    )
    some = record(saltray.train, replace(second, cluster=replace(second.cluster, workers_per_fold=2)), only_folds=[1])
    (planned,) = some.of(RunPlanned)
    assert (planned.pseudo, planned.steps) == (3, 4)  # 12 tiles and 3 of 6, in batches of 4
    assert some.printed == ""
    result = record(saltray.train, second).result
    ensemble = saltray.Ensemble.load(result.ensemble)
    provenance = ensemble.manifest.pseudo_labels
    assert provenance is not None
    assert (provenance.uri, provenance.members, provenance.tiles) == (f"{uri}/v1", (0, 1), 3)
    assert store.get_record("runs/r2/manifest.json", RunManifest).pseudo_labels == provenance
    teacher = saltray.Ensemble.load(uri)
    images = read_tiles(copied.data, part="test").images
    for fold in range(2):
        own = saltray.Ensemble(teacher.manifest, [teacher.models[fold]], teacher.device).predict(images)
        labels = read_labels(store.sub(f"runs/r2/fold-{fold}"), fold)
        np.testing.assert_allclose(labels.confidence, np.abs(own - 0.5).mean(axis=(1, 2)), rtol=1e-4)
    with pytest.raises(ConfigError, match=r"started with other pseudo_labels.share \(0.5\)"):
        saltray.train(replace(second, pseudo_labels=PseudoLabelConfig(ensemble=uri, share=1)))
    with pytest.raises(ConfigError, match=r"fold 0 holds out .* or another pseudo_labels\.ensemble"):
        saltray.train(replace(second, run="r3", folds=FoldConfig(count=2, seed=1)))
    assert not store.exists("runs/r3/manifest.json")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            StorageError("/s: No space left"),
            "^/s: No space left; 0 of 2 folds are finished, and the same command trains",
        ),
        (RunLockedError("run r1 was taken over"), "^run r1 was taken over$"),
    ],
    ids=["store", "lock"],
)
def test_a_fault_of_the_store_ends_the_run_as_such(
    fault: StorageError | RunLockedError,
    told: str,
    small: Small,
    tiles_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saltray.distributed import fold_jobs

    monkeypatch.setattr(
        fold_jobs, "train_folds", lambda *_: [fold_jobs.FoldOutcome(0, failure=str(fault), fault=fault)]
    )
    with pytest.raises(type(fault), match=told):
        saltray.train(small(tiles_folder, tmp_path))


class Killed(NamedTuple):
    """A run on S3 of which one rank was killed."""

    run: Finished
    checkpoint: bytes
    """The manifest of fold 0's checkpoint when that happened."""


@pytest.fixture(scope="module")
def killed(
    small: Small, tiles_folder: Path, s3_uri: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killed]:
    from saltray.distributed import fold_jobs, worker

    marker = tmp_path_factory.mktemp("killed") / "marker"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_jobs, "train_fold", killed_once(worker.train_fold, "fold-0", marker))
        run = record(saltray.train, small(tiles_folder, s3_uri(), cluster=ClusterConfig(max_failures=1)))
        yield Killed(run, marker.read_bytes())


def test_a_killed_rank_resumes_from_its_last_checkpoint(killed: Killed) -> None:
    run = store_of(killed.run.result).sub("runs/r1")
    check_resumed(run.sub("fold-0"), killed.checkpoint, epochs=2)
    assert killed.run.of(FoldResumed) == [FoldResumed(0, 1)]
    assert killed.run.of(FoldFailed) == []
    assert killed.run.printed == ""
    # Ray's own records of a job went through the store, too.
    assert run.exists("fold-1/checkpoint_manager_snapshot.json")


def test_a_resumed_run_on_s3_gives_the_bytes_of_an_uninterrupted_one_in_a_folder(
    killed: Killed, finished: Finished
) -> None:
    there, here = killed.run.result, finished.result
    for one, other in zip(there.results, here.results, strict=True):
        assert (one.weights_sha256, one.oof_sha256) == (other.weights_sha256, other.oof_sha256)
    assert (there.score, there.threshold, there.score_at_threshold) == (
        here.score,
        here.threshold,
        here.score_at_threshold,
    )
    members = [saltray.Ensemble.load(result.ensemble).manifest.members for result in (there, here)]
    assert members[0] == members[1]


def test_a_run_on_a_real_s3_server_gives_the_same_bytes_and_keeps_the_secret(
    finished: Finished, small: Small, tiles_folder: Path, tmp_path: Path, ceph: Ceph, start: Callable[..., Live]
) -> None:
    upload(tiles_folder, "s3://saltray-test/whole/tiles")
    remote = small("s3://saltray-test/whole/tiles", "s3://saltray-test/whole/store")
    (tmp_path / "job.json").write_text(json.dumps(to_record(remote)))
    # As a command: this process's Ray knows another server.
    live = start("train", "--config", "job.json")
    live.wait_for("report    s3://saltray-test/whole/store/runs/r1/report.html")
    assert live.process.wait(60) == 0
    store = open_store("s3://saltray-test/whole")
    for fold, here in enumerate(finished.result.results):
        there = store.get_record(f"store/runs/r1/{fold_folder(fold)}/result.json", FoldResult)
        assert (there.weights_sha256, there.oof_sha256) == (here.weights_sha256, here.oof_sha256)
    keys = [entry.key for entry in store.list()]
    assert "store/ensembles/r1/v1/manifest.json" in keys
    assert "store/runs/r1/fold-0/checkpoints/epoch-00001/state.pt" in keys
    assert live.process.stderr is not None
    told = [*live.seen, live.process.stderr.read(), *(store.get(key).decode(errors="replace") for key in keys)]
    secrets = (ceph.access_key, ceph.secret_key)
    assert not [text for text in told if any(secret in text for secret in secrets)]
