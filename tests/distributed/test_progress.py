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
