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


# History


def test_history_that_has_not_begun_is_empty(store: Store) -> None:
    assert read_history(store) == read_lines(store) == []
    with History(store):
        pass
    assert list(store.list()) == []


def test_history_is_one_json_line_an_epoch(store: Store) -> None:
    with History(store) as history:
        for record in epochs(1, 2, 3):
            history.append(record)
    lines = store.get(KEY).decode().splitlines()
    assert unstamped([json.loads(line) for line in lines]) == epochs(1, 2, 3)
    assert read_history(store) == history.records
    stamps = [record["at"] for record in history.records]
    assert stamps == sorted(stamps)


def test_notes_are_kept_among_the_epochs_and_are_none(store: Store) -> None:
    with History(store) as history:
        history.append(epochs(1)[0])
        history.note("a checkpoint is passed over")
        history.append(epochs(2)[0])
    assert unstamped(history.epochs) == unstamped(read_history(store)) == epochs(1, 2)
    note = {"note": "a checkpoint is passed over"}
    assert unstamped(read_lines(store)) == [*epochs(1), note, *epochs(2)]


def test_history_appears_while_the_fold_still_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.distributed.history.PAUSE_S", 0.01)
    with History(store) as history:
        for count in (1, 2):
            history.append(epochs(count)[0])
            until_there_are(store, count)
        assert unstamped(read_history(store)) == epochs(1, 2)


def test_history_goes_on_from_where_the_fold_resumes(store: Store) -> None:
    with History(store) as history:
        for record in epochs(1, 2, 3):
            history.append(record)
    first = read_history(store)
    with History(store, [record for record in first if record["epoch"] <= 2]) as history:
        history.append({"epoch": 3, "loss": 9.0, "score": 0.5})
    again = read_history(store)
    assert again[:2] == first[:2]  # with the times of the first attempt
    assert unstamped(again[2:]) == [{"epoch": 3, "loss": 9.0, "score": 0.5}]


def test_history_is_written_even_if_the_body_raises(store: Store) -> None:
    def diverge() -> None:
        with History(store) as history:
            history.append(epochs(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diverge()
    assert unstamped(read_history(store)) == epochs(1)


def test_history_outlives_a_store_that_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.distributed.history.PAUSE_S", 0.01)
    put = store.put
    failures: list[str] = []

    def fail_twice(key: str, data: bytes) -> None:
        if len(failures) < 2:
            failures.append(key)
            raise StorageError("the store is away for a moment")
        put(key, data)

    monkeypatch.setattr(store, "put", fail_twice)
    with History(store) as history:
        history.append(epochs(1)[0])
        until_there_are(store, 1)
    assert failures == [KEY, KEY]


@pytest.mark.parametrize(("body", "told"), [(None, StorageError), (ZeroDivisionError, ZeroDivisionError)])
def test_a_history_that_is_lost_is_told_unless_worse_happened(
    store: Store, monkeypatch: pytest.MonkeyPatch, body: type[Exception] | None, told: type[Exception]
) -> None:
    def away(key: str, data: bytes) -> None:
        raise StorageError("the store is away")

    def train() -> None:
        with History(store) as history:
            history.append(epochs(1)[0])
            if body is not None:
                raise body

    monkeypatch.setattr(store, "put", away)
    with pytest.raises(told):
        train()


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


# The run's own record


CONFIG = Config(data="here", store="there", run="r1", folds=FoldConfig(count=2))
DATASET = {"digest": "d" * 64, "height": 2, "width": 3}
FOLD_OF = np.array([0, 1, 0, 1])


@pytest.fixture
def tiles() -> Tiles:
    """Four tiles of 2x3; the first two are without salt."""
    masks = np.zeros((4, 2, 3), np.uint8)
    masks[2, 0], masks[3] = 1, 1
    return Tiles(("a", "b", "c", "d"), np.zeros((4, 2, 3), np.uint8), masks)


def test_a_run_is_begun_with_manifest_and_split(store: Store, tiles: Tiles) -> None:
    begin(store, CONFIG, DATASET, tiles, FOLD_OF)
    manifest = store.get_json("manifest.json")
    assert (manifest["run"], manifest["dataset"]) == ("r1", "d" * 64)
    assert manifest["config"]["folds"] == {"count": 2, "scheme": "coverage", "seed": 0}
    split = store.get_json("folds.json")
    assert split["fold_of"] == {"a": 0, "b": 1, "c": 0, "d": 1}
    assert split["balance"] == [
        {"fold": 0, "tiles": 2, "positives": 1, "empty_share": 0.5, "coverage": 0.25},
        {"fold": 1, "tiles": 2, "positives": 1, "empty_share": 0.5, "coverage": 0.5},
    ]


def test_a_run_is_written_once(store: Store, tiles: Tiles) -> None:
    begin(store, CONFIG, DATASET, tiles, FOLD_OF)
    written = {entry.key: store.get(entry.key) for entry in store.list()}
    # Where it is kept and what it runs on may change, and the split of the first time stays.
    moved = dataclasses.replace(CONFIG, data="s3://b/x", store="s3://b/y", cluster=ClusterConfig(workers_per_fold=2))
    begin(store, moved, DATASET, tiles, 1 - FOLD_OF)
    assert {entry.key: store.get(entry.key) for entry in store.list()} == written


def test_a_beginning_that_was_cut_short_is_completed(store: Store, tiles: Tiles) -> None:
    begin(store, CONFIG, DATASET, tiles, FOLD_OF)
    split = store.get("folds.json")
    store.delete("folds.json")
    begin(store, CONFIG, DATASET, tiles, FOLD_OF)
    assert store.get("folds.json") == split


@pytest.mark.parametrize(
    ("changes", "digest", "named"),
    [
        ({"optim": OptimConfig(lr=0.5)}, "d" * 64, "optim.lr (0.001)"),
        ({"train": TrainConfig(epochs=2, seed=1)}, "d" * 64, "train.epochs (60), train.seed (0)"),
        ({}, "e" * 64, "tiles"),
        ({"folds": FoldConfig(count=3)}, "e" * 64, "tiles, folds.count (2)"),
    ],
    ids=["one setting", "two settings", "tiles", "both"],
)
def test_another_run_of_the_same_name_is_refused(
    store: Store, tiles: Tiles, changes: dict[str, Any], digest: str, named: str
) -> None:
    begin(store, CONFIG, DATASET, tiles, FOLD_OF)
    written = {entry.key: store.get(entry.key) for entry in store.list()}
    other = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ConfigError) as caught:
        begin(store, other, DATASET | {"digest": digest}, tiles, FOLD_OF)
    assert str(caught.value) == (
        f"run r1 was begun with other {named}; give those again to finish it, or choose another --run"
    )
    assert {entry.key: store.get(entry.key) for entry in store.list()} == written


def test_other_encoder_weights_of_the_same_name_are_refused(store: Store, tiles: Tiles) -> None:
    begin(store, CONFIG, DATASET, tiles, FOLD_OF, {"a": np.zeros(3), "b": np.ones(2)})
    begin(store, CONFIG, DATASET, tiles, FOLD_OF, {"b": np.ones(2), "a": np.zeros(3)})
    for other in ({"a": np.zeros(3), "b": np.array([1.0, 2.0])}, None):
        with pytest.raises(ConfigError, match="run r1 was begun with other encoder weights; give those again"):
            begin(store, CONFIG, DATASET, tiles, FOLD_OF, other)


# Finished folds


def put_fold(store: Store, fold: int, ids: list[str], probabilities: NDArray[np.float16]) -> FoldResult:
    table = pa.table({"id": ids, "probability": [row.tobytes() for row in probabilities]})
    result = FoldResult(
        fold=fold,
        tiles=len(ids),
        score=0.5,
        iou=0.5,
        dice=0.5,
        epochs=1,
        seconds=1.0,
        started=0.0,
        finished=1.0,
        weights_sha256="0" * 64,
        oof_sha256=store.put_table(f"fold-{fold}/oof.parquet", table),
    )
    store.put_json(f"fold-{fold}/result.json", dataclasses.asdict(result))
    return result


@pytest.fixture
def truth() -> NDArray[np.float16]:
    """[4, 2, 3]: a probability of its own for each pixel."""
    return (np.arange(24).reshape(4, 2, 3) / 32).astype(np.float16)


def test_a_fold_is_finished_when_its_result_is_there(store: Store, truth: NDArray[np.float16]) -> None:
    assert finished(store, 1) is None
    result = put_fold(store, 1, ["b", "d"], truth[1::2])
    assert finished(store, 1) == result
    assert finished(store, 0) is None
    store.put_json("fold-0/result.json", {"fold": 0})
    with pytest.raises(IntegrityError, match="not a fold's result"):
        finished(store, 0)


def test_predictions_of_all_folds_come_in_the_order_of_the_tiles(
    store: Store, tiles: Tiles, truth: NDArray[np.float16]
) -> None:
    results = [put_fold(store, 1, ["d", "b"], truth[[3, 1]]), put_fold(store, 0, ["a", "c"], truth[[0, 2]])]
    whole = out_of_fold(store, results, tiles)
    assert whole.dtype == np.float16
    np.testing.assert_array_equal(whole, truth)


def test_tiles_without_a_prediction_are_an_error(store: Store, tiles: Tiles, truth: NDArray[np.float16]) -> None:
    results = [put_fold(store, 0, ["a", "c"], truth[[0, 2]]), put_fold(store, 1, ["b"], truth[[1]])]
    for some in (results, results[:1], []):
        with pytest.raises(IntegrityError, match="some tiles have no out-of-fold prediction; choose another --run"):
            out_of_fold(store, some, tiles)


def test_predictions_of_other_tiles_are_an_error(store: Store, tiles: Tiles, truth: NDArray[np.float16]) -> None:
    unknown = put_fold(store, 0, ["a", "z"], truth[:2])
    with pytest.raises(IntegrityError, match=r"fold 0 are of other tiles \('z'\); choose another --run"):
        out_of_fold(store, [unknown], tiles)
    larger = put_fold(store, 1, ["b"], np.zeros((1, 4, 4), np.float16))
    with pytest.raises(IntegrityError, match="fold 1 are of other tiles"):
        out_of_fold(store, [larger], tiles)


def test_predictions_that_were_changed_are_an_error(store: Store, tiles: Tiles, truth: NDArray[np.float16]) -> None:
    result = put_fold(store, 0, ["a", "c"], truth[[0, 2]])
    put_fold(store, 0, ["a", "c"], truth[[2, 0]])
    with pytest.raises(IntegrityError, match="its SHA-256 is"):
        out_of_fold(store, [result], tiles)
