"""What saltray 0.1 kept of a run is read, and written again as the same bytes."""

from typing import Any

import pytest
from samples import DIGEST, STORED_CONFIG, STORED_EPOCH, STORED_PROVENANCE

from saltray.config import ClusterConfig
from saltray.data.folds import FoldBalance
from saltray.errors import IntegrityError
from saltray.runs.history import EpochRecord, NoteRecord
from saltray.runs.records import CheckpointManifest, FoldResult, RunManifest, Split
from saltray.storage.base import Store

MANIFEST: dict[str, Any] = {
    "config": STORED_CONFIG,
    "dataset": DIGEST,
    "identity": "1" * 64,
    "initial_weights": None,
    "origin": {
        "score": 0.4166666666666667,
        "search": "s1",
        "trial": "trial-002",
        "trials": 4,
        "uri": "/store/searches/s1",
        "values": {"model.num_filters": 4, "optim.lr": 0.002973},
    },
    "provenance": STORED_PROVENANCE,
    "pseudo_labels": None,
    "run": "r2",
}
SPLIT: dict[str, Any] = {
    "balance": [
        {"coverage": 0.20378721040420875, "empty_share": 0.41666666666666663, "fold": 0, "positives": 7, "tiles": 12},
        {"coverage": 0.245605006045159, "empty_share": 0.41666666666666663, "fold": 1, "positives": 7, "tiles": 12},
    ],
    "fold_of": {"070cba1603": 0, "2c26b61c6c": 1},
}
RESULT: dict[str, Any] = {
    "cost": None,
    "dice": 0.0,
    "epochs": 3,
    "finished": 1795712817.6974378,
    "fold": 0,
    "iou": 0.0,
    "oof_sha256": "0" * 64,
    "score": 0.4166666666666667,
    "seconds": 2.8457090900000708,
    "snapshots": [],
    "started": 1795712814.6935291,
    "tiles": 12,
    "weights_sha256": "f" * 64,
}
CHECKPOINT: dict[str, Any] = {
    "epoch": 1,
    "history": [{"at": 1795712815.5, "note": "runs on 10.0.0.1"}, STORED_EPOCH],
    "sha256": "3" * 64,
}
STORED = [
    (RunManifest, MANIFEST),
    (RunManifest, MANIFEST | {"origin": None}),
    (Split, SPLIT),
    (FoldResult, RESULT),
    (CheckpointManifest, CHECKPOINT),
]


@pytest.mark.parametrize(("kind", "record"), STORED)
def test_a_stored_record_is_written_again_as_the_same_bytes(kind: type[Any], record: Any, store: Store) -> None:
    store.put_json("before.json", record)
    store.put_record("after.json", store.get_record("before.json", kind))
    assert store.get("after.json") == store.get("before.json")


def test_a_stored_record_is_what_it_was(store: Store) -> None:
    for name, (_, record) in zip("abcde", STORED, strict=True):
        store.put_json(name, record)
    manifest = store.get_record("a", RunManifest)
    assert (manifest.run, manifest.config.optim.lr, manifest.config.cluster) == ("r2", 0.002973, ClusterConfig())
    assert manifest.search_provenance is not None
    assert manifest.search_provenance.trial == "trial-002"
    assert [type(value) for value in manifest.search_provenance.values.values()] == [int, float]
    assert store.get_record("b", RunManifest).search_provenance is None
    split = store.get_record("c", Split)
    assert split.fold_of == {"070cba1603": 0, "2c26b61c6c": 1}
    assert split.balance[1] == FoldBalance(1, 12, 7, 0.41666666666666663, 0.245605006045159)
    assert (store.get_record("d", FoldResult).epochs, store.get_record("d", FoldResult).tiles) == (3, 12)
    note, epoch = store.get_record("e", CheckpointManifest).history
    assert note == NoteRecord(note="runs on 10.0.0.1", at=1795712815.5)
    assert epoch == EpochRecord(**STORED_EPOCH)


def test_a_manifest_from_before_searches_is_read(store: Store) -> None:
    later = ("origin", "initial_weights")
    store.put_json("manifest.json", {name: value for name, value in MANIFEST.items() if name not in later})
    assert store.get_record("manifest.json", RunManifest).search_provenance is None


@pytest.mark.parametrize(
    ("kind", "record", "fault"),
    [
        (RunManifest, [], r"the record is \[\]"),
        (RunManifest, MANIFEST | {"identity": None}, "identity is null"),
        (RunManifest, MANIFEST | {"search_provenance": None}, "search_provenance is unknown"),
        (RunManifest, MANIFEST | {"config": STORED_CONFIG | {"folds": {"count": 1}}}, "folds.count is 1"),
        (RunManifest, MANIFEST | {"origin": {"search": "s1"}}, "origin.uri is missing"),
        (Split, SPLIT | {"fold_of": {"a": "0"}}, 'fold_of is {"a": "0"}; it should have a fold for each tile'),
        (Split, SPLIT | {"balance": [{"fold": 0}]}, "balance.0.tiles is missing"),
        (FoldResult, {"fold": 0}, "tiles is missing"),
        (FoldResult, RESULT | {"score": "0.4"}, 'score is "0.4"'),
        (CheckpointManifest, CHECKPOINT | {"history": [{"note": 1, "at": 1.0}]}, "history.0.NoteRecord.note is 1"),
    ],
)
def test_another_record_is_named_with_its_fault(kind: type[Any], record: Any, fault: str, store: Store) -> None:
    store.put_json("record.json", record)
    with pytest.raises(IntegrityError, match=f"record.json: {fault}") as caught:
        store.get_record("record.json", kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("store_kind", ["folder"])
def test_a_large_split_is_read_again(store: Store) -> None:
    tiles = 350_000
    split = Split(fold_of={f"{tile:040x}": tile % 5 for tile in range(tiles)}, balance=())
    store.put_record("folds.json", split)
    assert store.get_record("folds.json", Split) == split
    assert store.entry("folds.json").size / tiles * 2_000_000 < Split.MAX_BYTES
