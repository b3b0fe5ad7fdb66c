"""The keys of a run and of a pretraining in a store, each written once.

    runs/<run>/{manifest.json, folds.json, fold-k/..., oof.parquet, report.html, tensorboard/fold-k/..., mlflow.json}
    fold-k/{checkpoints/epoch-00012/{state.pt, manifest.json}, history.jsonl, error.txt,
            snapshot-3/..., model.safetensors, oof.parquet, result.json}
    snapshot-3/{model.safetensors, oof.parquet, result.json}    the same at the end of an earlier cycle
    pseudo-labels/fold-k.{parquet, json}    below a fold or a trial: the masks of test tiles that it trains on

    pretrained/<name>/{manifest.json, checkpoints/..., history.jsonl, error.txt, model.safetensors, result.json}

A trial of a search has the same `history.jsonl`, `checkpoints` and `error.txt` as a fold, and a search `tensorboard`.
"""

import re

RUNS = "runs"
PRETRAINED = "pretrained"
"""The folder of all pretrainings."""
MANIFEST = "manifest.json"
SPLIT = "folds.json"
FOLD_PREFIX = "fold-"
OOF = "oof.parquet"
"""Out-of-fold probabilities: of all tiles below a run, of its held-out tiles below a fold."""
REPORT = "report.html"
MLFLOW = "mlflow.json"
"""Where MLflow has the run."""
TENSORBOARD = "tensorboard"
"""Below a run or a search."""

HISTORY = "history.jsonl"
ERROR = "error.txt"
"""Why the last attempt failed; the next one deletes it first."""
WEIGHTS = "model.safetensors"
"""Of the end of the last cycle."""
RESULT = "result.json"
"""Written last, so its presence means 'finished'."""
CHECKPOINTS = "checkpoints"
CHECKPOINT_STATE = "state.pt"
CHECKPOINT_MANIFEST = "manifest.json"
"""Written after the state: without it there is no checkpoint."""

PSEUDO_LABELS = "pseudo-labels"
"""The labels of test tiles, below a fold or a trial: for each fold that is trained, a table and its record."""

_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/epoch-(\d+)/{re.escape(CHECKPOINT_MANIFEST)}")

_WEIGHTS = re.compile(rf"((?:|.*/){RUNS}/[^/]+)/{FOLD_PREFIX}([0-9]+)/[^/]+\.safetensors")


def run_folder(run: str) -> str:
    """A run's part of the store."""
    return f"{RUNS}/{run}"


def pretrained_folder(name: str) -> str:
    """A pretraining's part of the store."""
    return f"{PRETRAINED}/{name}"


def fold_folder(fold: int) -> str:
    """A fold's part of its run; also the name of its job."""
    return f"{FOLD_PREFIX}{fold}"


def events_file(name: str) -> str:
    """The TensorBoard file of a fold or trial, of a fixed name, below its run or search."""
    return f"{TENSORBOARD}/{name}/events.out.tfevents.{name}"


def snapshot_folder(cycle: int) -> str:
    """What a fold left at the end of an earlier cycle, below the fold."""
    return f"snapshot-{cycle}"


def fold_of_uri(uri: str) -> tuple[str, int] | None:
    """The URI of the run, and the fold, whose weights a URI names; None if it does not have that form."""
    match = _WEIGHTS.fullmatch(uri)
    return (match[1], int(match[2])) if match else None


def checkpoint_folder(epoch: int) -> str:
    """The checkpoint after `epoch` epochs, below a fold or trial."""
    return f"{CHECKPOINTS}/epoch-{epoch:05d}"


def checkpoint_epoch(key: str) -> int | None:
    """The finished epochs of the checkpoint whose manifest has this key below a fold; None for other keys."""
    match = _CHECKPOINT.fullmatch(key)
    return int(match[1]) if match else None
