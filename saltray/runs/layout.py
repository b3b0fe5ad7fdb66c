"""The keys of a run in a store, each written once.

    runs/<run>/{manifest.json, folds.json, fold-k/..., oof.parquet, report.html}
    fold-k/{checkpoints/epoch-00012/{state.pt, manifest.json}, history.jsonl, error.txt,
            snapshot-3/..., model.safetensors, oof.parquet, result.json}
    snapshot-3/{model.safetensors, oof.parquet, result.json}    the same at the end of an earlier cycle

A trial of a search has the same `history.jsonl`, `checkpoints` and `error.txt` as a fold.
"""

import re

RUNS = "runs"
MANIFEST = "manifest.json"
SPLIT = "folds.json"
FOLD_PREFIX = "fold-"
OOF = "oof.parquet"
"""Out-of-fold probabilities: of all tiles below a run, of its held-out tiles below a fold."""
REPORT = "report.html"

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

_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/epoch-(\d+)/{re.escape(CHECKPOINT_MANIFEST)}")


def run_folder(run: str) -> str:
    """A run's part of the store."""
    return f"{RUNS}/{run}"


def fold_folder(fold: int) -> str:
    """A fold's part of its run; also the name of its job."""
    return f"{FOLD_PREFIX}{fold}"


def snapshot_folder(cycle: int) -> str:
    """What a fold left at the end of an earlier cycle, below the fold."""
    return f"snapshot-{cycle}"


def checkpoint_folder(epoch: int) -> str:
    """The checkpoint after `epoch` epochs, below a fold or trial."""
    return f"{CHECKPOINTS}/epoch-{epoch:05d}"


def checkpoint_epoch(key: str) -> int | None:
    """The finished epochs of the checkpoint whose manifest has this key below a fold; None for other keys."""
    match = _CHECKPOINT.fullmatch(key)
    return int(match[1]) if match else None
