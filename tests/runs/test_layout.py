"""The keys of a run. Runs of earlier versions have them, so none of them may change."""

import pytest

from saltray.runs import layout
from saltray.runs.layout import (
    checkpoint_epoch,
    checkpoint_folder,
    events_file,
    fold_folder,
    fold_of_uri,
    pretrained_folder,
    run_folder,
)


def test_keys() -> None:
    assert run_folder("r1") == "runs/r1"
    assert pretrained_folder("p1") == "pretrained/p1"
    assert fold_folder(4) == "fold-4"
    assert events_file("trial-007") == "tensorboard/trial-007/events.out.tfevents.trial-007"
    assert [checkpoint_folder(epoch) for epoch in (12, 123456)] == [
        "checkpoints/epoch-00012",
        "checkpoints/epoch-123456",
    ]
    assert {name: value for name, value in vars(layout).items() if name.isupper() and not name.startswith("_")} == {
        "RUNS": "runs",
        "PRETRAINED": "pretrained",
        "FOLD_PREFIX": "fold-",
        "MANIFEST": "manifest.json",
        "PSEUDO_LABELS": "pseudo-labels",
        "SPLIT": "folds.json",
        "OOF": "oof.parquet",
        "REPORT": "report.html",
        "MLFLOW": "mlflow.json",
        "TENSORBOARD": "tensorboard",
        "HISTORY": "history.jsonl",
        "ERROR": "error.txt",
        "WEIGHTS": "model.safetensors",
        "RESULT": "result.json",
        "CHECKPOINTS": "checkpoints",
        "CHECKPOINT_STATE": "state.pt",
        "CHECKPOINT_MANIFEST": "manifest.json",
    }


@pytest.mark.parametrize("epoch", [1, 12, 99999, 123456])
def test_a_checkpoint_is_known_by_its_manifest(epoch: int) -> None:
    assert checkpoint_epoch(f"{checkpoint_folder(epoch)}/manifest.json") == epoch


@pytest.mark.parametrize(
    "key",
    [
        "checkpoints/epoch-00001/state.pt",
        "checkpoints/epoch-00001",
        "checkpoints/epoch-x/manifest.json",
        "checkpoints/epoch-00001/manifest.json/x",
        "fold-0/checkpoints/epoch-00001/manifest.json",
        "checkpoints/epoch-00001/manifestxjson",
        "result.json",
    ],
)
def test_other_keys_are_no_checkpoint(key: str) -> None:
    assert checkpoint_epoch(key) is None


@pytest.mark.parametrize("store", ["", "store/", "/a/runs/b/", "s3://bucket/"])
def test_uris_of_weights_of_a_fold(store: str) -> None:
    assert fold_of_uri(f"{store}runs/r1/fold-3/model.safetensors") == (f"{store}runs/r1", 3)
    for other in ("runs/r1/model.safetensors", "runs/fold-3/model.safetensors", "pretrained/p1/model.safetensors"):
        assert fold_of_uri(f"{store}{other}") is None
