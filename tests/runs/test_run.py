"""A run is created once, and what its finished folds predicted is put together."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from samples import DIGEST, STORED_EPOCH, dataset

from saltray.config import AugmentConfig, ClusterConfig, Config, FoldConfig, ModelConfig, OptimConfig, TrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.ensemble.manifest import SearchProvenance, WeightsProvenance, provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.records import to_record
from saltray.runs.history import History
from saltray.runs.records import FoldResult, RunManifest
from saltray.runs.run import create_run, find_run, fold_result
from saltray.storage.base import Store

PLAIN = ModelConfig(decoder_batchnorm=False, deep_supervision=False)
"""The first default, with which the identity below was recorded."""
CONFIG = Config(data="here", store="there", run="r1", folds=FoldConfig(count=2), model=PLAIN)
EPOCH = json.dumps(STORED_EPOCH).encode() + b"\n"
FOLD_OF = np.array([0, 1, 0, 1])
SEARCH = SearchProvenance(
    uri="s3://b/searches/s1", search="s1", trial="trial-003", values={"optim.lr": 0.5}, score=0.8, trials=4
)
WEIGHTS = WeightsProvenance(uri="s3://b/ensembles/e/v2", sha256=(DIGEST, DIGEST), members=(0, 1))


def create(
    home: Store,
    tiles: LabelledTiles,
    config: Config = CONFIG,
    *,
    fold_of: NDArray[np.int64] = FOLD_OF,
    digest: str = DIGEST,
    initial_weights: str | None = None,
    search: SearchProvenance | None = None,
) -> RunManifest:
    return create_run(
        home,
        config,
        tiles=tiles,
        fold_of=fold_of,
        dataset=dataset(digest),
        initial_weights=initial_weights,
        search_provenance=search,
        weights_provenance=WEIGHTS,
    )


def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list()}


def test_a_run_has_a_manifest_and_a_split(store: Store, tiles: LabelledTiles) -> None:
    manifest = create(store, tiles, search=SEARCH)
    assert store.get_record("manifest.json", RunManifest) == manifest
    assert store.get_json("manifest.json") == {
        "run": "r1",
        "identity": "f805c88f5302160d7c1b5acefa15e91c79b0cd594dd014770306eb0175711822",
        "config": to_record(CONFIG),
        "dataset": DIGEST,
        "origin": to_record(SEARCH),
        "initial_weights": to_record(WEIGHTS),
        "pseudo_labels": None,
        "provenance": provenance(),
    }
    assert store.get_json("folds.json") == {
        "fold_of": {"a": 0, "b": 1, "c": 0, "d": 1},
        "balance": [
            {"fold": 0, "tiles": 2, "positives": 1, "empty_share": 0.5, "coverage": 0.25},
            {"fold": 1, "tiles": 2, "positives": 1, "empty_share": 0.5, "coverage": 0.5},
        ],
    }


def test_a_run_is_written_once(store: Store, tiles: LabelledTiles) -> None:
    first = create(store, tiles, search=SEARCH)
    written = contents(store)
    # Where it is kept and what it runs on may change; the first split and the first search stay.
    moved = replace(CONFIG, data="s3://b/x", store="s3://b/y", cluster=ClusterConfig(workers_per_fold=2))
    assert create(store, tiles, moved, fold_of=1 - FOLD_OF) == first
    assert contents(store) == written


def test_a_run_whose_name_differs_in_capitals_is_another(store: Store, tiles: LabelledTiles) -> None:
    """FAT, SMB and macOS have one folder for both."""
    create(store, tiles)
    written = contents(store)
    with pytest.raises(ConfigError, match="run R1 and run r1 are the same folder on this file system"):
        create(store, tiles, replace(CONFIG, run="R1"))
    assert contents(store) == written


def test_a_creation_that_was_interrupted_is_completed(store: Store, tiles: LabelledTiles) -> None:
    create(store, tiles)
    split = store.get("folds.json")
    store.delete("folds.json")
    create(store, tiles)
    assert store.get("folds.json") == split


@pytest.mark.parametrize(
    ("changes", "digest", "named"),
    [
        ({"optim": OptimConfig(lr=0.5)}, DIGEST, "optim.lr (0.001)"),
        ({"train": TrainConfig(epochs=2, seed=1)}, DIGEST, "train.epochs (60), train.seed (0)"),
        (
            {"augment": AugmentConfig(flip=0), "optim": OptimConfig(lr=1)},
            DIGEST,
            "optim.lr (0.001), augment.flip (0.5)",
        ),
        ({}, "e" * 64, "tiles"),
        ({"folds": FoldConfig(count=3)}, "e" * 64, "tiles, folds.count (2)"),
    ],
    ids=["one setting", "two of a section", "two sections", "tiles", "both"],
)
def test_another_run_of_the_same_name_is_refused(
    store: Store, tiles: LabelledTiles, changes: dict[str, Any], digest: str, named: str
) -> None:
    create(store, tiles)
    store.put("fold-1/history.jsonl", EPOCH)
    written = contents(store)
    with pytest.raises(ConfigError) as caught:
        create(store, tiles, replace(CONFIG, **changes), digest=digest)
    assert str(caught.value) == (
        f"run r1 was started with other {named}; use those again to finish it, or choose another run name"
    )
    assert contents(store) == written


CONSTANT = replace(CONFIG, optim=OptimConfig(schedule="constant", warmup_epochs=0))  # 0 is read back as 0.0


def longer(config: Config, epochs: int) -> Config:
    return replace(config, train=replace(config.train, epochs=epochs))


def test_a_run_of_a_constant_rate_gets_more_epochs(store: Store, tiles: LabelledTiles) -> None:
    first = create(store, tiles, CONSTANT, search=SEARCH)
    store.put("fold-0/history.jsonl", EPOCH)
    store.put("fold-1/result.json", b"{}")
    store.put("report.html", b"of 60 epochs")
    with pytest.raises(ConfigError, match="fold-1 left no checkpoint to resume from after its 60 epochs"):
        create(store, tiles, longer(CONSTANT, 80))
    store.put("fold-1/checkpoints/epoch-00060/manifest.json", b"{}")
    store.put("fold-1/model.safetensors", b"weights")
    before = contents(store)
    for weights, digest in (("b" * 64, DIGEST), (None, "e" * 64)):
        with pytest.raises(ConfigError, match="was started with other"):
            create(store, tiles, longer(CONSTANT, 80), initial_weights=weights, digest=digest)
    assert contents(store) == before

    manifest = create(store, tiles, longer(CONSTANT, 80))
    assert manifest.config == longer(CONSTANT, 80)
    assert manifest.search_provenance == first.search_provenance
    assert store.get_record("manifest.json", RunManifest) == manifest
    after = contents(store)
    assert before.keys() - after.keys() == {"fold-1/result.json", "report.html"}
    assert {key for key in after if after[key] != before[key]} == {"manifest.json"}
    assert create(store, tiles, longer(CONSTANT, 80)) == manifest
    with pytest.raises(ConfigError, match="run r1 has train.epochs 80, and 60 would be fewer; use 80 or more"):
        create(store, tiles, CONSTANT)


@pytest.mark.parametrize("optim", [OptimConfig(), OptimConfig(schedule="cycles", cycles=2)])
def test_a_schedule_that_ends_is_not_extended(store: Store, tiles: LabelledTiles, optim: OptimConfig) -> None:
    config = replace(CONFIG, optim=optim)
    create(store, tiles, config)
    store.put("fold-1/history.jsonl", EPOCH)
    before = contents(store)
    with pytest.raises(ConfigError) as caught:
        create(store, tiles, longer(config, 80))
    assert str(caught.value) == (
        "run r1 cannot be trained to train.epochs 80: its learning rate falls to zero at epoch 60 (optim.schedule "
        f"{optim.schedule}); choose another run name, and start from the published models with --model.weights "
        "there/ensembles/r1"
    )
    with pytest.raises(ConfigError, match="run r1 has train.epochs 60, and 40 would be fewer"):
        create(store, tiles, longer(config, 40))
    assert contents(store) == before


def test_other_initial_weights_are_refused(store: Store, tiles: LabelledTiles) -> None:
    create(store, tiles, initial_weights="a" * 64)
    create(store, tiles, initial_weights="a" * 64)
    store.put("fold-1/history.jsonl", EPOCH)
    for other in ("b" * 64, None):
        with pytest.raises(ConfigError, match="run r1 was started with other initial weights; use those again"):
            create(store, tiles, initial_weights=other)


def test_a_run_that_never_trained_an_epoch_may_begin_with_other_settings(store: Store, tiles: LabelledTiles) -> None:
    create(store, tiles)
    store.put("lock/000001.json", b"the caller's")
    store.put("fold-1/error.txt", b"tiles are larger than the input")
    store.put("fold-1/checkpoint_manager_snapshot.json", b"Ray Train's, by which it would resume")
    with History(store.sub("fold-0")) as history:
        history.note("runs on 10.0.0.1")
    other = replace(CONFIG, train=TrainConfig(input_size=256), folds=FoldConfig(count=3))
    fold_of = np.array([2, 1, 0, 1])
    manifest = create(store, tiles, other, fold_of=fold_of, search=SEARCH)
    assert (manifest.config, manifest.search_provenance) == (other, SEARCH)
    assert store.get_record("manifest.json", RunManifest) == manifest
    assert store.get_json("folds.json")["fold_of"] == {"a": 2, "b": 1, "c": 0, "d": 1}
    assert list(contents(store)) == ["folds.json", "lock/000001.json", "manifest.json"]
    assert create(store, tiles, other, fold_of=fold_of) == manifest


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("history.jsonl", EPOCH),
        ("history.jsonl", b"corrupted\n"),
        ("checkpoints/epoch-00001/manifest.json", b"{}"),
        ("result.json", b"{}"),
    ],
)
def test_a_run_with_something_to_keep_keeps_its_settings(
    store: Store, tiles: LabelledTiles, key: str, data: bytes
) -> None:
    create(store, tiles)
    store.put(f"fold-1/{key}", data)
    written = contents(store)
    with pytest.raises(ConfigError, match=r"run r1 was started with other optim.lr \(0.001\)"):
        create(store, tiles, replace(CONFIG, optim=OptimConfig(lr=1)))
    assert contents(store) == written


def test_a_run_is_found_or_the_others_are_named(store: Store, tiles: LabelledTiles) -> None:
    with pytest.raises(NotFoundError, match="no run r9 in .*; there are none yet; `saltray train` creates one"):
        find_run(store, "r9")
    for name in ("r2", "r1"):
        create(store.sub(f"runs/{name}"), tiles, replace(CONFIG, run=name))
    assert find_run(store, "r2") == store.sub("runs/r2")
    with pytest.raises(NotFoundError, match=f"no run r9 in {store.uri}; there are r1, r2"):
        find_run(store, "r9")
    with pytest.raises(ConfigError, match="run '../r1' is not a plain name"):
        find_run(store, "../r1")


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
    store.put_record(f"fold-{fold}/result.json", result)
    return result


@pytest.fixture
def truth() -> NDArray[np.float16]:
    """[4, 2, 3]: a probability of its own for each pixel."""
    return (np.arange(24).reshape(4, 2, 3) / 32).astype(np.float16)


def test_a_fold_is_finished_when_its_result_is_there(store: Store, truth: NDArray[np.float16]) -> None:
    assert fold_result(store, 1) is None
    result = put_fold(store, 1, ["b", "d"], truth[1::2])
    assert fold_result(store, 1) == result
    assert fold_result(store, 0) is None
    store.put_json("fold-0/result.json", {"fold": 0})
    with pytest.raises(IntegrityError, match="fold-0/result.json: tiles is missing"):
        fold_result(store, 0)
