"""What the tests of the commands share: copies of a finished run, stores on S3, and ranks that are killed."""

import os
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_session import Recorded
from samples import metrics
from tile_samples import write_whole_fold
from torch import nn

import saltray
from saltray.commands.prepare import Prepared
from saltray.commands.publish_run import publish_run
from saltray.config import Config, FoldConfig
from saltray.data.packing import load_tiles, open_packed
from saltray.data.synthetic import write_dataset
from saltray.progress import log_event
from saltray.records import parse_record
from saltray.runs.history import EpochRecord, History, ResumeRecord, epochs_of, read_history
from saltray.runs.layout import CHECKPOINT_MANIFEST, checkpoint_folder
from saltray.runs.records import CheckpointManifest
from saltray.runs.run import create_run
from saltray.storage.base import Store
from saltray.storage.lock import Owner
from saltray.storage.uri import open_store

FOLDS = 3
FIRST_CHECKPOINT = f"{checkpoint_folder(1)}/{CHECKPOINT_MANIFEST}"


@pytest.fixture
def copied(
    finished: Recorded[saltray.TrainResult], small: Callable[..., Config], tiles_folder: Path, tmp_path: Path
) -> Config:
    """The configuration of the finished run in a copy of its store, which a test may change."""
    original = Path(finished.result.report).parents[2]
    shutil.copytree(original, tmp_path / "store")
    config = small(tiles_folder, original)
    return replace(config, store=str(tmp_path / "store"))


@pytest.fixture
def stale_lock() -> Callable[[Store], str]:
    """Leaves the lock of a process of this machine that has died; returns its owner in words."""

    def leave(home: Store) -> str:
        home.delete_prefix("lock")
        pid, space = 2**22 + 1, os.readlink("/proc/self/ns/pid")  # noqa: PTH115
        owner = Owner(host=socket.gethostname(), pid=pid, pid_namespace=space, beat=3, at=1.0, released=False)
        home.put_record("lock/000001.json", owner)
        return str(owner)

    return leave


def note_something(store: Store) -> None:
    """Add a note to the manifest of the only packed data set of a store."""
    (name,) = store.folders("datasets")
    key = f"datasets/{name}/manifest.json"
    store.put_json(key, store.get_json(key) | {"notes": ["something"]})


@pytest.fixture(scope="session")
def s3_uri(s3_server: str) -> Callable[[], str]:
    """Makes the URI of an empty store on moto's server."""
    return lambda: f"s3://saltray-test/{uuid.uuid4().hex}"


def killed_once(train_loop: Callable[[Any], Any], job_name: str, marker: Path) -> Callable[[Any], Any]:
    """A training loop whose rank is killed once, by itself, as the kernel does when memory is short.

    That is in epoch 2 of the job of this name, when the checkpoint of epoch 1 is in the store and there is no other.
    `marker` then holds the manifest of that checkpoint as it was.
    """

    def loop(loop_config: Any) -> Any:  # no rank can import this module: a function within a function travels as code
        import ray.train

        job, report = loop_config["job"], ray.train.report

        def dying_report(metrics: Any, **settings: Any) -> None:
            if job.name == job_name and metrics["epoch"] == 2 and not marker.exists():
                end = time.monotonic() + 60
                while not job.home.exists(FIRST_CHECKPOINT):
                    assert time.monotonic() < end, "no checkpoint within 60 s"
                    time.sleep(0.02)
                marker.write_bytes(job.home.get(FIRST_CHECKPOINT))
                os.kill(os.getpid(), signal.SIGKILL)
            report(metrics, **settings)

        ray.train.report = dying_report
        return train_loop(loop_config)

    return loop


def check_resumed(home: Store, checkpoint: bytes, epochs: int) -> None:
    """The history of a job whose rank was killed in epoch 2.

    It resumed after epoch 1 instead of beginning anew, and what the killed rank had done until the checkpoint is kept.

    Args:
        home: the job's part of the store.
        checkpoint: the manifest of the checkpoint as it was when the rank was killed.
        epochs: those of the whole job.
    """
    kept = parse_record(CheckpointManifest, checkpoint).history
    assert [type(record) for record in kept] == [EpochRecord]
    records = read_history(home)
    assert records[:1] == kept  # to the time at which the epoch ended
    assert isinstance(records[1], ResumeRecord)
    assert records[1].resumed_after == 1
    assert [record.epoch for record in epochs_of(records)] == list(range(1, epochs + 1))
    assert len(records) == epochs + 1
    assert all(record.at > records[1].at for record in records[2:])


def store_of(result: saltray.TrainResult) -> Store:
    """The store that a result was written to."""
    return open_store(result.ensemble.partition("/ensembles/")[0])


def write_run(root: Store, data: str, name: str = "r1", *, finished: int = FOLDS, count: int = FOLDS) -> None:
    """A run some of whose folds are finished, with invented predictions and no training; published if all are."""
    tiles, _ = load_tiles(data, root)
    packed = open_packed(data, root)
    config = Config(data=data, store=root.uri, run=name, folds=FoldConfig(count=count))
    fold_of = np.arange(len(tiles)) % count
    settings: dict[str, Any] = {"initial_weights": None, "search_provenance": None}
    home = root.sub(f"runs/{name}")
    create_run(home, config, tiles=packed.index, fold_of=fold_of, dataset=packed.manifest, **settings)
    probabilities = (0.1 + 0.8 * np.roll(tiles.masks, 5, axis=1)).astype(np.float16)
    results = []
    for fold in range(finished):
        index = np.flatnonzero(fold_of == fold)
        own = home.sub(f"fold-{fold}")
        epochs = [EpochRecord(**vars(metrics(number)), at=1000.0 + number) for number in (1, 2)]
        with History(own, epochs):
            pass
        results.append(
            write_whole_fold(own, fold, tiles.select(index), nn.Conv2d(1, 1, 1), probabilities[index], epochs)
        )
    if finished == count:
        publish_run(config, root, Prepared(packed, fold_of, None), results, None, log_event)


@pytest.fixture(scope="module")
def written_run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a published run r1 and an unfinished one, half, of 12 tiles; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("written")
    data = str(write_dataset(folder / "tiles", tiles=12, seed=1, test_tiles=0))
    root = open_store(str(folder / "store"))
    write_run(root, data)
    write_run(root, data, "half", finished=1)
    return root
