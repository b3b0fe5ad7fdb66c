"""`saltray status`: how far a run is, read from the store alone, without a cluster."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from saltray.distributed.history import KEY, epochs_of, read_lines
from saltray.distributed.run_records import CHECKPOINTS, ERROR, RESULT, find_run, finished
from saltray.ensemble.manifest import FoldResult, Manifest
from saltray.ensemble.versions import versions_of
from saltray.errors import IntegrityError, NotFoundError
from saltray.storage.base import Store
from saltray.storage.lock import Owner, owner_of
from saltray.storage.names import open_store

REPORT = "report.html"
CHECKPOINT = re.compile(rf"{CHECKPOINTS}/epoch-(\d+)/manifest\.json")
PACE_EPOCHS = 5
"""Epochs whose mean time is the pace."""
QUIET_EPOCHS, QUIET_S = 3, 60.0
"""A fold without a new line for so many epochs, and so many seconds, is not taken to be training."""

RunState = Literal["running", "finished", "stopped", "gone", "unreadable"]
FoldState = Literal["done", "training", "waiting", "failed", "unfinished", "not begun"]


@dataclass(frozen=True, kw_only=True)
class FoldStatus:
    """How far one fold is."""

    fold: int
    state: FoldState
    """done: its result is there. training: the run has an owner, and new lines come. waiting: the run has an owner; the
    fold is in line, starts or starts again. failed: its last attempt left an error. unfinished, not begun: nobody works
    on it; the same command as before does."""
    epochs: tuple[dict[str, Any], ...]
    """Its epochs so far: epoch, loss, score and the rest of its history."""
    of: int
    """Epochs in all."""
    result: FoldResult | None
    checkpoint: int | None
    """Epochs in its newest checkpoint."""
    at: float | None
    """Time of its last line, by the clock of its rank, in seconds since 1970."""
    left: float | None
    """Seconds that the epochs left would take at the pace of the last ones; None unless it trains."""
    error: str | None
    """Last line of what went wrong, where it failed."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How far a run is, in short."""

    run: str
    uri: str
    state: RunState
    """running: its owner shows life. finished: the ensemble is published and the report written. stopped: the owner
    gave it up before that. gone: the owner shows no life, and has not given it up. unreadable: its manifest is
    damaged."""
    owner: Owner | None
    """The process that works on it, or did last."""
    done: int
    """Folds that are done."""
    count: int
    """Folds in all."""


@dataclass(frozen=True, kw_only=True)
class RunStatus(RunSummary):
    """How far a run is."""

    folds: tuple[FoldStatus, ...]
    ensemble: str | None
    """URI of the newest published version of these very models."""
    manifest: Manifest | None
    """That version's manifest, with its scores and threshold."""


def status(*, store: str, run: str) -> RunStatus:
    """How far each fold of a run is.

    Times and what follows from them, such as whether an owner lives, are as right as the clocks of the machines.

    Args:
        store: a folder or s3://bucket/prefix.
        run: name of the run.

    Raises:
        NotFoundError: there is no such run.
        StorageError: the store cannot be reached.
    """
    root = open_store(store)
    home = find_run(root, run)
    summary, epochs, keys = _summary(home, run)
    live = summary.state == "running"
    folds = tuple(_fold(home, fold, _below(keys, f"fold-{fold}/"), epochs, live) for fold in range(summary.count))
    published = _published(root, run, [fold.result for fold in folds]) if summary.done == summary.count else None
    ensemble = None if published is None else f"{root.uri}/ensembles/{run}/{published.version}"
    return RunStatus(**vars(summary), folds=folds, ensemble=ensemble, manifest=published)


def list_runs(store: str) -> list[RunSummary]:
    """All runs of a store, by name.

    Args:
        store: a folder or s3://bucket/prefix.

    Raises:
        StorageError: the store cannot be reached.
    """
    root = open_store(store)
    found = []
    for name in root.folders("runs"):
        try:
            found.append(_summary(root.sub(f"runs/{name}"), name)[0])
        except NotFoundError:  # its first process is about to write the manifest, or died before
            continue
        except IntegrityError:
            uri = f"{root.uri}/runs/{name}"
            found.append(RunSummary(run=name, uri=uri, state="unreadable", owner=None, done=0, count=0))
    return found


def _summary(home: Store, run: str) -> tuple[RunSummary, int, set[str]]:
    """The run in short, the epochs of a fold, and the keys of all that the run has in the store."""
    manifest = home.get_json("manifest.json")
    try:
        epochs, count = manifest["config"]["train"]["epochs"], manifest["config"]["folds"]["count"]
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{home.uri}/manifest.json is no run's manifest; restore it, or delete the run") from error
    keys = {entry.key for entry in home.list()}
    owner = owner_of(home)
    done = sum(f"fold-{fold}/{RESULT}" in keys for fold in range(count))
    state = _state(owner, done == count and REPORT in keys)
    return RunSummary(run=run, uri=home.uri, state=state, owner=owner, done=done, count=count), epochs, keys


def _state(owner: Owner | None, complete: bool) -> RunState:
    if owner is not None and owner.lives():
        return "running"
    if complete:
        return "finished"
    return "stopped" if owner is None or owner.released else "gone"


def _below(keys: Iterable[str], prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def _fold(run: Store, fold: int, keys: set[str], of: int, live: bool) -> FoldStatus:
    home = run.sub(f"fold-{fold}")
    lines = read_lines(home) if KEY in keys else []
    epochs = epochs_of(lines)
    result = finished(run, fold) if RESULT in keys else None
    at = result.finished if result is not None else lines[-1]["at"] if lines else None
    quiet = 0.0 if at is None else time.time() - at
    recent = [epoch["seconds"] for epoch in epochs[-PACE_EPOCHS:]]
    pace = sum(recent) / len(recent) if recent else 0.0
    state: FoldState
    if result is not None:
        state = "done"
    elif ERROR in keys:  # of its last attempt: the next one deletes it first
        state = "failed"
    elif live and at is not None and quiet < max(QUIET_EPOCHS * pace, QUIET_S):
        state = "training"
    elif live:
        state = "waiting"
    else:
        state = "unfinished" if lines else "not begun"
    return FoldStatus(
        fold=fold,
        state=state,
        epochs=epochs,
        of=of,
        result=result,
        checkpoint=max((int(match[1]) for key in keys if (match := CHECKPOINT.fullmatch(key))), default=None),
        at=at,
        left=max(0.0, (of - len(epochs)) * pace - quiet) if state == "training" and epochs else None,
        error=_last_line(home) if state == "failed" else None,
    )


def _last_line(home: Store) -> str:
    """Of what went wrong."""
    try:
        lines = home.get(ERROR).decode(errors="replace").strip().splitlines()
    except NotFoundError:  # the fold was started again just now
        lines = []
    return lines[-1] if lines else "no reason is told"


def _published(root: Store, run: str, results: list[FoldResult | None]) -> Manifest | None:
    models = [result.weights_sha256 for result in results if result is not None]
    for version in reversed(versions_of(root, run)):
        if version.manifest is not None and [member.sha256 for member in version.manifest.members] == models:
            return version.manifest
    return None
