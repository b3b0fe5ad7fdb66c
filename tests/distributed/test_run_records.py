"""What a run and its folds keep in the store: manifest, split, history, checkpoints, out-of-fold predictions."""

import dataclasses
import json
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from ray.train import Checkpoint

from saltray.config import ClusterConfig, Config, FoldConfig, OptimConfig, TrainConfig
from saltray.data.tiles import Tiles
from saltray.distributed.checkpoints import Upload, detach, load, name_of, newest
from saltray.distributed.history import KEY, History, read_history, read_lines
from saltray.distributed.run_records import begin, finished, out_of_fold
from saltray.ensemble.manifest import FoldResult
from saltray.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Store
from saltray.storage.names import open_store


@pytest.fixture
def store(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


def epochs(*numbers: int) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "loss": 1 / epoch, "score": None} for epoch in numbers]


def unstamped(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the time of their writing, which each of them must have."""
    assert all(isinstance(record["at"], float) for record in records)
    return [{key: value for key, value in record.items() if key != "at"} for record in records]


def until_there_are(store: Store, count: int) -> None:
    for _ in range(1000):
        if len(read_history(store)) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{count} records never came")


# Checkpoints


def state_after(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((2, 3), float(epoch))}, "lr": [1e-3, 2e-3]}


def save(run: Store, folder: Path, epoch: int) -> Checkpoint:
    """What Ray does to upload the checkpoint of fold 0 after `epoch` epochs."""
    local = folder / f"local-{epoch}"
    local.mkdir(exist_ok=True)
    return Upload(run, "fold-0", epoch, state_after(epoch))(Checkpoint(str(local)), name_of(epoch))


def test_a_checkpoint_is_uploaded_and_found(store: Store, tmp_path: Path) -> None:
    uploaded = save(store, tmp_path, 12)
    assert uploaded.path == "fold-0/checkpoints/epoch-00012"
    with uploaded.as_directory() as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == ["manifest.json", "state.pt"]
    key, state, damaged = newest(store.sub("fold-0"))
    assert (key, damaged) == ("checkpoints/epoch-00012", [])
    assert state is not None
    assert (state["epoch"], state["lr"]) == (12, [1e-3, 2e-3])
    assert torch.equal(state["model"]["weight"], torch.full((2, 3), 12.0))


def test_the_state_comes_first_and_the_manifest_last(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[list[str]] = []
    put_json = store.put_json

    def watched(key: str, record: Any) -> None:
        before.append([entry.key for entry in store.list()])
        put_json(key, record)

    monkeypatch.setattr(store, "put_json", watched)
    save(store, tmp_path, 1)
    assert before == [["fold-0/checkpoints/epoch-00001/state.pt"]]
    assert store.exists("fold-0/checkpoints/epoch-00001/manifest.json")


def test_an_upload_that_fails_is_not_reported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(key: str, path: Path) -> str:
        raise StorageError("the store is away")

    monkeypatch.setattr(store, "put_file", away)
    upload = Upload(store, "fold-0", 1, state_after(1))
    with pytest.raises(StorageError):
        upload(Checkpoint(str(tmp_path)), name_of(1))
    assert upload.done.is_set()  # or else the fold would never write a checkpoint again
    assert newest(store.sub("fold-0")) == (None, None, [])


def test_the_newest_is_the_one_of_most_epochs(store: Store, tmp_path: Path) -> None:
    for epoch in (10, 9, 100):  # in the order of their writing, and as words, another would be the last
        save(store, tmp_path, epoch)
    save(store, tmp_path, 11)
    key, state, damaged = newest(store.sub("fold-0"))
    assert (key, damaged) == ("checkpoints/epoch-00100", [])
    assert state is not None
    assert state["epoch"] == 100


def test_without_a_checkpoint_there_is_none(store: Store) -> None:
    assert newest(store.sub("fold-0")) == (None, None, [])


def test_damaged_checkpoints_are_passed_over_and_told(store: Store, tmp_path: Path) -> None:
    for epoch in range(1, 6):
        save(store, tmp_path, epoch)
    home = "fold-0/checkpoints/epoch-0000"
    flipped = bytearray(store.get(f"{home}5/state.pt"))
    flipped[len(flipped) // 2] ^= 1
    store.put(f"{home}5/state.pt", bytes(flipped))
    store.delete(f"{home}4/manifest.json")  # half written
    store.delete(f"{home}3/state.pt")
    store.put(f"{home}2/manifest.json", b"{")
    key, state, damaged = newest(store.sub("fold-0"))
    assert key == "checkpoints/epoch-00001"
    assert state is not None
    assert state["epoch"] == 1
    for line, name, why in zip(
        damaged,
        ("epoch-00005", "epoch-00004", "epoch-00003", "epoch-00002"),
        ("its SHA-256 is", "no such object", "no such object", "not JSON"),
        strict=True,
    ):
        assert line.startswith(f"checkpoint {name} is passed over: ")
        assert why in line
        assert "\n" not in line
    with pytest.raises(IntegrityError):
        load(store.sub("fold-0"), "checkpoints/epoch-00005")
    with pytest.raises(NotFoundError):
        load(store.sub("fold-0"), "checkpoints/epoch-00004")


def test_only_damaged_checkpoints_are_as_good_as_none(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 1)
    store.delete("fold-0/checkpoints/epoch-00001/manifest.json")
    key, state, damaged = newest(store.sub("fold-0"))
    assert (key, state, len(damaged)) == (None, None, 1)


def test_a_detached_state_no_longer_follows_the_training() -> None:
    weight = torch.ones(3, requires_grad=True)
    moments = [torch.zeros(2), torch.zeros(2)]
    state = OrderedDict(model={"weight": weight}, optimizer={"state": moments, "betas": (0.9, torch.tensor(0.5))}, n=7)
    copy = detach(state)
    with torch.no_grad():
        weight.add_(1)
    moments[0].add_(1)
    moments.append(torch.zeros(1))
    state["n"] = 8
    assert copy["model"]["weight"].tolist() == [1, 1, 1]
    assert not copy["model"]["weight"].requires_grad
    assert [moment.tolist() for moment in copy["optimizer"]["state"]] == [[0, 0], [0, 0]]
    assert copy["optimizer"]["betas"] == (0.9, torch.tensor(0.5))
    assert copy["n"] == 7
