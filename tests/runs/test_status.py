"""How far a run is, from what its own writers left in the store, on each kind of store."""

import hashlib
import os
import re
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import (
    DIGEST,
    FIRST_CONFIG,
    STORED_PROVENANCE,
    dataset,
    ensemble_manifest,
    foreign_object,
    metrics,
)

from saltray.config import Config, FoldConfig, PretrainConfig, TrainConfig
from saltray.data.all_images import AllImages
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.ensemble.manifest import Member
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.runs.history import History
from saltray.runs.pretraining import create_pretraining
from saltray.runs.records import CheckpointManifest, FoldResult, Snapshot
from saltray.runs.run import create_run
from saltray.runs.status import FoldStatus, RunStatus, pretrain_statuses, run_status, run_summaries
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.training.epoch_metrics import EpochMetrics

EPOCHS = 20


def create(root: Store, name: str = "r1", folds: int = 2) -> Store:
    """A run that was just created."""
    masks = np.zeros((2 * folds, 2, 3), np.uint8)
    home = root.sub(f"runs/{name}")
    create_run(
        home,
        config_of(root, name, folds),
        tiles=LabelledTiles(tuple(map(str, range(2 * folds))), np.zeros_like(masks), masks),
        fold_of=np.arange(2 * folds) % folds,
        dataset=dataset(),
        initial_weights=None,
        search_provenance=None,
    )
    return home


def config_of(root: Store, name: str, folds: int) -> Config:
    return Config(data="d", store=root.uri, run=name, folds=FoldConfig(count=folds), train=TrainConfig(epochs=EPOCHS))


def train(run: Store, fold: int, *epochs: EpochMetrics, age: float = 0.0) -> None:
    """Write what a fold that trains does, as if it had been `age` seconds ago."""
    with History(run.sub(f"fold-{fold}")) as history:
        for epoch in epochs:
            history.append(epoch)
        history.records = [replace(record, at=record.at - age) for record in history.records]


def checkpoint(run: Store, fold: int, epoch: int, *, complete: bool = True) -> None:
    folder = f"fold-{fold}/checkpoints/epoch-{epoch:05d}"
    run.put(f"{folder}/state.pt", b"state")
    if complete:
        run.put_record(f"{folder}/manifest.json", CheckpointManifest(epoch=epoch, sha256="0" * 64, history=()))


def finish(run: Store, fold: int, *, weights: bytes = b"weights") -> FoldResult:
    run.put(f"fold-{fold}/model.safetensors", weights)
    result = FoldResult(
        fold=fold,
        tiles=2,
        score=0.8,
        iou=0.5,
        dice=0.5,
        epochs=EPOCHS,
        seconds=100.0,
        started=0.0,
        finished=time.time() - 50,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        oof_sha256="0" * 64,
    )
    run.put_record(f"fold-{fold}/result.json", result)
    return result


def own(run: Store, *, age: float | None = 0.0, released: bool = False, host: str = "elsewhere", pid: int = 7) -> None:
    """The lock of a process; without `age`, as old versions wrote it."""
    record = {"host": host, "pid": pid, "beat": 3, "released": released}
    if age is not None:
        record |= {"space": os.fspath(Path("/proc/self/ns/pid").readlink()), "at": time.time() - age}
    run.put_json("lock/000004.json", record)


def folds_of(store: Store) -> tuple[FoldStatus, ...]:
    return run_status(store, "r1").folds


# The run


def test_a_run_that_was_just_created(store: Store) -> None:
    run = create(store)
    found = run_status(store, "r1")
    assert (found.run, found.uri, found.state, found.owner) == ("r1", run.uri, "stopped", None)
    assert (found.done, found.count, found.ensemble, found.manifest) == (0, 2, None, None)
    assert [(fold.fold, fold.state, fold.epochs, fold.of) for fold in found.folds] == [
        (0, "not started", (), EPOCHS),
        (1, "not started", (), EPOCHS),
    ]


def test_a_run_is_running_while_its_lock_is_held_and_stopped_afterwards(store: Store) -> None:
    with RunLock(create(store), "run r1"):
        found = run_status(store, "r1")
        assert found.state == "running"
        assert str(found.owner) == f"process {os.getpid()} on {socket.gethostname()}"
        assert {fold.state for fold in found.folds} == {"queued"}
    found = run_status(store, "r1")
    assert found.state == "stopped"
    assert found.owner is not None
    assert found.owner.at == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("age", "state"), [(0.0, "running"), (-20.0, "running"), (31.0, "stale"), (1e6, "stale"), (None, "stale")]
)
def test_an_owner_without_a_sign_of_life_is_stale(store: Store, age: float | None, state: str) -> None:
    own(create(store), age=age)
    assert run_status(store, "r1").state == state


def test_an_owner_that_died_on_this_host_is_stale_at_once(store: Store) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    own(create(store), host=socket.gethostname(), pid=process.pid)
    assert run_status(store, "r1").state == "stale"


def publish_run(store: Store, results: list[FoldResult]) -> None:
    publish(
        store,
        config=config_of(store, "r1", len(results)),
        models=[
            FoldModel(
                fold=row.fold,
                key=f"runs/r1/fold-{row.fold}/model.safetensors",
                sha256=row.weights_sha256,
                score=row.score,
            )
            for row in results
        ],
        postprocess=Postprocess(threshold=0.4),
        score=0.8,
        score_at_threshold=0.85,
        baseline=0.4,
        evaluation=None,
        dataset=dataset(),
    )


def test_the_ensemble_of_several_snapshots_is_that_of_all_of_them(store: Store) -> None:
    run = create(store)
    results = []
    for fold in range(2):
        last = finish(run, fold, weights=b"last of %d" % fold)
        earlier = Snapshot(cycle=1, key="snapshot-1/model.safetensors", sha256="1" * 64, score=0.7)
        results.append(replace(last, snapshots=(earlier, replace(last.models[0], cycle=2))))
        run.put_record(f"fold-{fold}/result.json", results[-1])
    members = [
        Member(
            fold=result.fold, snapshot=model.cycle, key=f"{result.fold}-{model.cycle}", sha256=model.sha256, score=0.5
        )
        for result in results
        for model in result.models
    ]
    for version, some in (("v1", members), ("v2", members[1::2])):
        manifest = ensemble_manifest(version=version, members=tuple(some))
        store.put_record(f"ensembles/r1/{version}/manifest.json", manifest)
    assert run_status(store, "r1").ensemble == f"{store.uri}/ensembles/r1/v1"


def test_a_finished_run_names_the_ensemble_of_its_own_models(store: Store) -> None:
    run = create(store)
    own(run, released=True)
    results = [finish(run, 0), finish(run, 1, weights=b"others")]
    assert run_status(store, "r1").state == "stopped"
    publish_run(store, results)
    run.put("report.html", b"<html>")
    found = run_status(store, "r1")
    assert (found.state, found.done) == ("finished", 2)
    assert found.ensemble == f"{store.uri}/ensembles/r1/v1"
    assert found.manifest is not None
    assert (found.manifest.score, found.manifest.score_at_threshold) == (0.8, 0.85)

    finish(run, 0, weights=b"new")
    found = run_status(store, "r1")
    assert (found.done, found.ensemble, found.manifest) == (2, None, None)


def test_a_run_that_does_not_exist(store: Store) -> None:
    create(store)
    with pytest.raises(NotFoundError, match=f"no run r9 in {store.uri}; there are r1"):
        run_status(store, "r9")
    with pytest.raises(ConfigError, match="run '../r1'"):
        run_status(store, "../r1")


@pytest.mark.parametrize("record", [[], {}, {"config": {"folds": {"count": 2}}}])
def test_a_corrupted_manifest_is_named(store: Store, record: object) -> None:
    store.put_json("runs/r1/manifest.json", record)
    with pytest.raises(IntegrityError, match=r"runs/r1/manifest\.json: "):
        run_status(store, "r1")
    (row,) = run_summaries(store)
    assert (row.run, row.uri, row.state, row.owner) == ("r1", f"{store.uri}/runs/r1", "corrupted", None)


def test_a_run_of_the_first_versions_is_one_like_others(store: Store) -> None:
    run = store.sub("runs/r1")
    record = {"config": FIRST_CONFIG, "dataset": DIGEST, "identity": "1" * 64, "run": "r1"}
    run.put_json("manifest.json", record | {"origin": None, "provenance": STORED_PROVENANCE})
    finish(run, 1)
    status = run_status(store, "r1")
    assert (status.state, status.done, status.count, status.faults) == ("stopped", 1, 2, ())
    assert [fold.of for fold in status.folds] == [60, 60]
    (row,) = run_summaries(store)
    assert vars(row).items() <= vars(status).items()


def test_what_another_version_made_is_not_told_as_corrupted(store: Store) -> None:
    for home in (create(store), pretrain(store)):
        record = home.get_json("manifest.json")
        made = record["provenance"] | {"saltray": "9.9.9", "commit": None}
        home.put_json("manifest.json", record | {"new": 1, "provenance": made})
    (run,), (pretraining,) = run_summaries(store), pretrain_statuses(store)
    told = "was made by another version of saltray, 9.9.9, .*new is unknown"
    for found in (run, pretraining):
        assert (found.state, found.owner) == ("other version", None)
        assert re.search(told, found.faults[0])
    with pytest.raises(ConfigError, match=told):
        run_status(store, "r1")


def test_runs_are_listed_by_name(store: Store) -> None:
    assert run_summaries(store) == []
    own(create(store, "r2"))
    finish(create(store, "r1", folds=3), 1)
    own(store.sub("runs/r3"), released=True)  # its process died before the manifest was there
    foreign_object(store, "runs/a\tb/c")
    found = run_summaries(store)
    assert [(row.run, row.state, row.done, row.count) for row in found] == [
        ("r1", "stopped", 1, 3),
        ("r2", "running", 0, 2),
    ]
    assert not any(isinstance(row, RunStatus) for row in found)
    assert vars(found[0]).items() <= vars(run_status(store, "r1")).items()


# A fold


def test_a_fold_that_trains(store: Store) -> None:
    run = create(store)
    own(run)
    later = [metrics(number, 0.9 if number == 3 else 0.6) for number in range(2, 8)]
    train(run, 0, metrics(1, None, seconds=100.0), *later, age=5)
    checkpoint(run, 0, 2)
    checkpoint(run, 0, 6)
    checkpoint(run, 0, 7, complete=False)
    fold, other = folds_of(store)
    assert (fold.state, fold.checkpoint, fold.error, len(fold.epochs)) == ("training", 6, None, 7)
    assert fold.left == pytest.approx((EPOCHS - 7) * 10 - 5, abs=4)  # the first epoch, a slow one, no longer counts
    assert fold.at == pytest.approx(time.time() - 5, abs=4)
    assert (other.state, other.left, other.at, other.checkpoint) == ("queued", None, None, None)


def test_a_fold_that_is_overdue_has_no_negative_time_left(store: Store) -> None:
    run = create(store)
    own(run)
    train(run, 0, metrics(EPOCHS - 1, seconds=1.0), age=45)
    train(run, 1, metrics(EPOCHS))
    assert [fold.left is not None and fold.left >= 0 for fold in folds_of(store)] == [True, True]


def test_a_fold_is_queued_once_its_next_epoch_is_long_overdue(store: Store) -> None:
    run = create(store)
    own(run)
    train(run, 0, metrics(1, seconds=600.0), age=1000)
    train(run, 1, metrics(1, seconds=2.0), age=1000)
    assert [fold.state for fold in folds_of(store)] == ["training", "queued"]


def test_a_note_is_a_sign_of_life(store: Store) -> None:
    run = create(store)
    own(run)
    with History(run.sub("fold-0")) as history:
        history.note("computes in fp32")
    fold, _ = folds_of(store)
    assert (fold.state, fold.epochs, fold.left) == ("training", (), None)


def test_no_fold_of_a_stopped_run_trains(store: Store) -> None:
    run = create(store)
    own(run, released=True)
    train(run, 0, metrics(1))
    assert [(fold.state, fold.left) for fold in folds_of(store)] == [("unfinished", None), ("not started", None)]


@pytest.mark.parametrize("live", [True, False])
def test_a_fold_that_failed_has_the_last_line_of_its_error(store: Store, live: bool) -> None:
    run = create(store)
    own(run, released=not live)
    run.put("fold-0/error.txt", b"Traceback\n  ...\nRuntimeError: CUDA out of memory\n")
    train(run, 0, metrics(1), age=300)
    fold, other = folds_of(store)
    assert (fold.state, fold.error) == ("failed", "RuntimeError: CUDA out of memory")
    assert (other.state, other.error) == ("queued" if live else "not started", None)


def test_an_error_counts_for_more_than_recent_records_and_a_result_for_more_than_both(store: Store) -> None:
    run = create(store)
    own(run)
    for fold in range(2):
        run.put(f"fold-{fold}/error.txt", b"\n")
        train(run, fold, metrics(1))
    result = finish(run, 1)
    failed, done = folds_of(store)
    assert (failed.state, failed.error, failed.result) == ("failed", "no reason was recorded", None)
    assert (done.state, done.error, done.result, done.at) == ("done", None, result, result.finished)


def test_what_is_corrupted_is_named_and_the_rest_is_shown(store: Store) -> None:
    run = create(store, folds=3)
    own(run, released=True)
    for fold in range(3):
        train(run, fold, metrics(1))
    result = finish(run, 2)
    finish(run, 1)
    run.put("fold-0/history.jsonl", b"{}\n")
    run.put("fold-1/result.json", b"{")
    (lock,) = [entry.key for entry in run.list("lock")]
    run.put(lock, b"[]")
    status = run_status(store, "r1")
    first, second, third = status.folds
    assert (first.state, first.epochs) == ("not started", ())
    assert (second.state, len(second.epochs), second.result) == ("corrupted", 1, None)
    assert (third.state, third.result) == ("done", result)
    assert [fault.partition(": ")[0] for fault in status.faults] == [
        f"{run.uri}/{lock}",
        f"{run.uri}/fold-0/history.jsonl is corrupted in line 1",
        f"{run.uri}/fold-1/result.json",
    ]
    assert run_summaries(store)[0].faults == status.faults[:1]


# Pretrainings


def pretrain(root: Store, name: str = "p1") -> Store:
    """A pretraining that was just created."""
    home = root.sub(f"pretrained/{name}")
    images = AllImages(Tiles(("a",), np.zeros((1, 2, 3), np.uint8)), "a" * 64, ())
    create_pretraining(home, config_of(root, "r1", 2), PretrainConfig(name=name), images, None)
    return home


def test_a_pretraining_from_its_first_epoch_to_its_end(store: Store) -> None:
    home = pretrain(store)
    (begun,) = pretrain_statuses(store)
    assert (begun.name, begun.uri, begun.state, begun.owner, begun.epochs, begun.of) == (
        "p1",
        home.uri,
        "stopped",
        None,
        (),
        EPOCHS,
    )
    with RunLock(home, "pretraining p1"), History(home) as history:
        history.append(metrics(1))
        assert pretrain_statuses(store)[0].state == "running"
    (one,) = pretrain_statuses(store)
    assert (one.state, [epoch.epoch for epoch in one.epochs]) == ("stopped", [1])
    home.put("error.txt", b"Traceback\nout of memory\n")
    (failed,) = pretrain_statuses(store)
    assert (failed.state, failed.error) == ("failed", "out of memory")
    home.put("result.json", b"{}")
    assert pretrain_statuses(store)[0].state == "failed"  # its weights are gone
    home.put("model.safetensors", b"weights")
    (done,) = pretrain_statuses(store)
    assert (done.state, done.error, done.weights) == ("finished", None, f"{home.uri}/model.safetensors")
    assert run_summaries(store) == []


def test_a_pretraining_that_is_corrupted_is_named_and_the_others_are_shown(store: Store) -> None:
    for name in ("p1", "p2", "p3"):
        home = pretrain(store, name)
        own(home, age=900)
    store.put("pretrained/p1/manifest.json", b"{}")
    store.put("pretrained/p2/history.jsonl", b"{}\n")
    store.put("pretrained/p4/history.jsonl", b"")  # its first process died before it was one
    first, second, third = pretrain_statuses(store)
    assert [one.state for one in (first, second, third)] == ["corrupted", "stale", "stale"]
    assert [len(one.faults) for one in (first, second, third)] == [1, 1, 0]
    assert "pretrained/p1/manifest.json" in first.faults[0]
    assert "pretrained/p2/history.jsonl is corrupted" in second.faults[0]
