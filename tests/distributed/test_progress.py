"""How far a run is, told from what its own writers left in the store, on each kind of store."""

import dataclasses
import hashlib
import os
import socket
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from command import Saltray, check_refusal

import saltray as library
from saltray.config import Config, FoldConfig, TrainConfig
from saltray.data.tiles import Tiles
from saltray.distributed.history import History
from saltray.distributed.progress import FoldStatus, list_runs, status
from saltray.distributed.run_records import begin
from saltray.ensemble.manifest import FoldResult
from saltray.ensemble.publishing import publish
from saltray.ensemble.threshold import Choice
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.storage.base import Store
from saltray.storage.lock import RunLock, owner_of
from saltray.storage.names import open_store

DATASET = {"digest": "d" * 64, "height": 2, "width": 3}
EPOCHS = 20


@pytest.fixture
def root(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


def begun(root: Store, name: str = "r1", folds: int = 2) -> Store:
    """A run that was begun."""
    masks = np.zeros((2 * folds, 2, 3), np.uint8)
    tiles = Tiles(tuple(map(str, range(2 * folds))), np.zeros_like(masks), masks)
    config = config_of(root, name, folds)
    run = root.sub(f"runs/{name}")
    begin(run, config, DATASET, tiles, np.arange(2 * folds) % folds)
    return run


def config_of(root: Store, name: str, folds: int) -> Config:
    return Config(data="d", store=root.uri, run=name, folds=FoldConfig(count=folds), train=TrainConfig(epochs=EPOCHS))


def epoch(number: int, score: float | None = 0.5, seconds: float = 10.0) -> dict[str, Any]:
    return {
        "epoch": number,
        "loss": 1.0,
        "seconds": seconds,
        "images_per_second": 812.3,
        "score": score,
        "valid_loss": None if score is None else 1.0,
    }


def train(run: Store, fold: int, *epochs: dict[str, Any], age: float = 0.0) -> None:
    """Write what a fold that trains does, with a last line of that age."""
    with History(run.sub(f"fold-{fold}")) as history:
        for record in epochs:
            history.append(record)
        for record in history.records:
            record["at"] -= age


def checkpoint(run: Store, fold: int, after: int, *, whole: bool = True) -> None:
    folder = f"fold-{fold}/checkpoints/epoch-{after:05d}"
    run.put(f"{folder}/state.pt", b"state")
    if whole:
        run.put_json(f"{folder}/manifest.json", {"epoch": after})


def finish(run: Store, fold: int) -> FoldResult:
    weights = f"weights of fold {fold}".encode()
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
    run.put_json(f"fold-{fold}/result.json", dataclasses.asdict(result))
    return result


def own(run: Store, *, age: float | None = 0.0, released: bool = False, host: str = "elsewhere", pid: int = 7) -> None:
    space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    record = {"host": host, "pid": pid, "space": space, "beat": 3, "released": released}
    run.put_json("lock/000004.json", record if age is None else record | {"at": time.time() - age})


def folds_of(root: Store, name: str = "r1") -> tuple[FoldStatus, ...]:
    return status(store=root.uri, run=name).folds


# The run


def test_a_run_that_was_only_begun(root: Store) -> None:
    run = begun(root)
    found = status(store=root.uri, run="r1")
    assert (found.run, found.uri, found.state, found.owner) == ("r1", run.uri, "stopped", None)
    assert (found.done, found.count, found.ensemble, found.manifest) == (0, 2, None, None)
    assert [(fold.fold, fold.state, fold.epochs, fold.of) for fold in found.folds] == [
        (0, "not begun", (), EPOCHS),
        (1, "not begun", (), EPOCHS),
    ]


def test_a_run_with_a_live_owner_is_running_and_stopped_afterwards(root: Store) -> None:
    run = begun(root)
    with RunLock(run, "run r1"):
        found = status(store=root.uri, run="r1")
        assert found.state == "running"
        assert str(found.owner) == f"process {os.getpid()} on {socket.gethostname()}"
        assert {fold.state for fold in found.folds} == {"waiting"}
    found = status(store=root.uri, run="r1")
    assert found.state == "stopped"
    assert found.owner is not None
    assert found.owner.at is not None
    assert abs(time.time() - found.owner.at) < 60


@pytest.mark.parametrize("age", [31.0, 1e6, None])
def test_an_owner_that_shows_no_life_is_gone(root: Store, age: float | None) -> None:
    own(begun(root), age=age)
    assert status(store=root.uri, run="r1").state == "gone"


def test_an_owner_whose_clock_is_ahead_lives(root: Store) -> None:
    own(begun(root), age=-20.0)
    assert status(store=root.uri, run="r1").state == "running"


def test_an_owner_that_died_on_this_host_is_gone_at_once(root: Store) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    own(begun(root), host=socket.gethostname(), pid=process.pid)
    assert status(store=root.uri, run="r1").state == "gone"


def test_nobody_owns_a_store_without_a_lock_or_with_a_damaged_one(root: Store) -> None:
    assert owner_of(root) is None
    root.put("lock/000001.json", b"{")
    assert owner_of(root) is None


def test_a_finished_run_names_the_ensemble_of_its_models(root: Store) -> None:
    run = begun(root)
    own(run, released=True)
    results = [finish(run, fold) for fold in range(2)]
    assert status(store=root.uri, run="r1").state == "stopped"
    choice = Choice(thresholds=(0.4,), scores=(0.85,), threshold=0.4, score=0.85)
    config = config_of(root, "r1", 2)
    publish(root, config=config, results=results, choice=choice, score=0.8, floor=0.4, dataset=DATASET)
    run.put("report.html", b"<html>")
    found = status(store=root.uri, run="r1")
    assert (found.state, found.done) == ("finished", 2)
    assert found.ensemble == f"{root.uri}/ensembles/r1/v1"
    assert found.manifest is not None
    assert (found.manifest.score, found.manifest.score_at_threshold) == (0.8, 0.85)

    run.put_json("fold-0/result.json", dataclasses.asdict(results[0]) | {"weights_sha256": "f" * 64})
    assert status(store=root.uri, run="r1").ensemble is None


def test_no_such_run_names_those_there_are(root: Store) -> None:
    with pytest.raises(NotFoundError, match="no run r9 in .*; there is none yet; `saltray train` makes one"):
        status(store=root.uri, run="r9")
    begun(root, "r1")
    begun(root, "r2")
    with pytest.raises(NotFoundError, match="no run r9 in .*; there are r1, r2"):
        status(store=root.uri, run="r9")
    with pytest.raises(ConfigError, match="run '../r1'"):
        status(store=root.uri, run="../r1")


def test_a_manifest_of_something_else_is_named(root: Store) -> None:
    root.put_json("runs/r1/manifest.json", [])
    with pytest.raises(IntegrityError, match="runs/r1/manifest.json is no run's manifest"):
        status(store=root.uri, run="r1")


def test_runs_are_listed_by_name(root: Store) -> None:
    assert list_runs(root.uri) == []
    own(begun(root, "r2"))
    run = begun(root, "r1")
    finish(run, 1)
    root.put_json("runs/r3/lock/000001.json", {"host": "h", "pid": 1, "beat": 0, "released": False})
    found = list_runs(root.uri)
    assert [(row.run, row.state, row.done, row.count) for row in found] == [
        ("r1", "stopped", 1, 2),
        ("r2", "running", 0, 2),
    ]


# A fold


def test_a_fold_that_trains(root: Store) -> None:
    run = begun(root)
    own(run)
    train(run, 0, epoch(1, None, 100.0), *(epoch(number, 0.9 if number == 3 else 0.6) for number in range(2, 8)), age=5)
    checkpoint(run, 0, 2)
    checkpoint(run, 0, 6)
    checkpoint(run, 0, 7, whole=False)
    fold, other = folds_of(root)
    assert (fold.state, fold.checkpoint, fold.error, len(fold.epochs)) == ("training", 6, None, 7)
    assert fold.left == pytest.approx((EPOCHS - 7) * 10 - 5, abs=4)  # the first epoch was slow, and no longer counts
    assert fold.at == pytest.approx(time.time() - 5, abs=4)
    assert (other.state, other.left, other.at, other.checkpoint) == ("waiting", None, None, None)


def test_a_fold_that_is_overdue_has_no_time_below_zero_left(root: Store) -> None:
    run = begun(root)
    own(run)
    train(run, 0, epoch(EPOCHS - 1, seconds=1.0), age=45)
    train(run, 1, epoch(EPOCHS))
    assert [fold.left is not None and fold.left >= 0 for fold in folds_of(root)] == [True, True]


def test_slow_epochs_are_waited_for_and_quick_ones_are_missed(root: Store) -> None:
    run = begun(root)
    own(run)
    train(run, 0, epoch(1, seconds=600.0), age=1000)
    train(run, 1, epoch(1, seconds=2.0), age=1000)
    assert [fold.state for fold in folds_of(root)] == ["training", "waiting"]


def test_a_note_is_a_sign_of_life(root: Store) -> None:
    run = begun(root)
    own(run)
    with History(run.sub("fold-0")) as history:
        history.note("computes in fp32")
    fold, _ = folds_of(root)
    assert (fold.state, fold.epochs, fold.left) == ("training", (), None)


def test_nobody_works_on_the_folds_of_a_stopped_run(root: Store) -> None:
    run = begun(root)
    own(run, released=True)
    train(run, 0, epoch(1))
    assert [fold.state for fold in folds_of(root)] == ["unfinished", "not begun"]


def test_a_fold_that_failed_says_why(root: Store) -> None:
    run = begun(root)
    run.put("fold-0/error.txt", b"Traceback\n  ...\nRuntimeError: CUDA out of memory\n")
    train(run, 0, epoch(1), age=300)
    for live in (True, False):
        own(run, released=not live)
        fold, other = folds_of(root)
        assert (fold.state, fold.error) == ("failed", "RuntimeError: CUDA out of memory")
        assert (other.state, other.error) == ("waiting" if live else "not begun", None)


def test_a_fold_that_failed_a_moment_ago_does_not_train(root: Store) -> None:
    run = begun(root)
    own(run)
    for fold in range(2):
        run.put(f"fold-{fold}/error.txt", b"\n")
    train(run, 0, epoch(1))
    finish(run, 1)
    assert [(fold.state, fold.error) for fold in folds_of(root)] == [("failed", "no reason is told"), ("done", None)]


# The verb


def test_the_verb_shows_each_fold(root: Store, saltray: Saltray) -> None:
    run = begun(root, folds=4)
    own(run, age=3)
    result = finish(run, 0)
    train(run, 0, *(epoch(number) for number in range(1, EPOCHS + 1)), age=50)
    train(run, 1, epoch(1, 0.7), epoch(2, 0.65))
    checkpoint(run, 1, 1)
    run.put("fold-2/error.txt", b"Traceback\nRuntimeError: [CUDA] out of memory\n")
    answer = saltray("status", "--store", root.uri, "--run", "r1")
    assert (answer.code, answer.err) == (0, "")
    head, _, _, *rows = answer.out.splitlines()
    assert head.startswith(f"run r1 in {run.uri}: running, process 7 on elsewhere, last sign of life ")
    assert rows[0].split()[:8] == ["0", "done", "20/20", f"{result.score:.4f}", "0.5000", "in", "1", "812"]
    assert 50 <= int(rows[0].split()[8]) <= 59
    assert rows[1].split()[:9] == ["1", "training", "2/20", "0.6500", "0.7000", "in", "1", "812", "1"]
    assert rows[1].split()[-2:] == ["3", "min"]
    assert rows[2].split() == ["2", "failed", "0/20"]
    assert rows[3].split() == ["3", "waiting", "0/20"]
    assert rows[4].startswith("fold 2 failed: RuntimeError: [CUDA] out of memory (whole text: ")
    assert rows[5:] == ["folds done: 1 of 4"]


def test_a_row_stays_whole_in_a_log_file(root: Store, saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = begun(root)
    train(run, 0, *(epoch(number) for number in range(1, EPOCHS + 1)), age=5000)
    rows = saltray("status", "--store", root.uri, "--run", "r1").out.splitlines()
    assert len(rows) == 6
    assert rows[3].split()[:2] == ["0", "unfinished"]
    assert rows[5] == "folds done: 0 of 2; the same command as before trains the rest"


def test_the_verb_lists_runs_and_says_what_is_missing(root: Store, saltray: Saltray) -> None:
    answer = saltray("status", "--store", root.uri)
    assert answer == (0, f"no run in {root.uri} yet; `saltray train` makes one\n", "")
    own(begun(root, "r1"))
    begun(root, "r2")
    answer = saltray("status", "--store", root.uri)
    assert answer.code == 0
    assert [row.split()[:3] for row in answer.out.splitlines()[2:]] == [
        ["r1", "running", "0/2"],
        ["r2", "stopped", "0/2"],
    ]
    check_refusal(saltray("status", "--store", root.uri, "--run", "r9"), "r9", "there are r1, r2")
    check_refusal(saltray("status", "--store", "gs://bucket"), "gs://")
    root.put_json("runs/r0/manifest.json", {})
    assert saltray("status", "--store", root.uri).out.splitlines()[2].split()[:2] == ["r0", "unreadable"]
    check_refusal(saltray("status", "--store", root.uri, "--run", "r0"), "r0/manifest.json")


def test_the_function_is_public(root: Store) -> None:
    begun(root)
    assert library.status(store=root.uri, run="r1").count == 2
    assert [row.run for row in library.list_runs(root.uri)] == ["r1"]
