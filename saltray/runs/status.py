"""How far runs and pretrainings are, read from the store alone, without a cluster."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import versions_of
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.runs.history import EpochRecord, epochs_of, read_history
from saltray.runs.layout import (
    ERROR,
    HISTORY,
    PRETRAINED,
    REPORT,
    RESULT,
    RUNS,
    WEIGHTS,
    checkpoint_epoch,
    fold_folder,
    pretrained_folder,
    run_folder,
)
from saltray.runs.manifests import manifest_of
from saltray.runs.records import FoldResult, PretrainManifest, RunManifest
from saltray.runs.run import find_run, fold_result
from saltray.storage.base import Store
from saltray.storage.lock import FOLDER as LOCK
from saltray.storage.lock import Owner, owner_of

T = TypeVar("T")

PACE_EPOCHS = 5
"""Epochs whose mean time is the pace."""
QUIET_EPOCHS, QUIET_S = 3, 60.0
"""A fold without a new record for so many epochs, and so many seconds, does not count as training."""

RunState = Literal["running", "finished", "stopped", "stale", "other version", "corrupted"]
FoldState = Literal["done", "training", "queued", "failed", "unfinished", "not started", "corrupted"]


@dataclass(frozen=True, kw_only=True)
class FoldStatus:
    """How far one fold is."""

    fold: int
    state: FoldState
    """done: its result is there. training: the run has an owner, and new records arrive. queued: the run has an owner;
    the fold is queued, starts or is retried. failed: its last attempt left an error. unfinished, not started: no
    process works on it; the same command as before does. corrupted: its result cannot be read."""
    epochs: tuple[EpochRecord, ...]
    """Its epochs so far."""
    of: int
    """Epochs in all."""
    result: FoldResult | None
    checkpoint: int | None
    """Epochs in its newest checkpoint."""
    at: float | None
    """Time of its last record, by the clock of its rank, in seconds since 1970."""
    left: float | None
    """Seconds that the remaining epochs would take at the pace of the last ones; None unless it is training."""
    error: str | None
    """Last line of the error, where it failed."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How far a run is, in short."""

    run: str
    uri: str
    state: RunState
    """running: its owner is alive. finished: the ensemble is published and the report written. stopped: the owner
    released it before that. stale: the owner shows no sign of life, and has not released it. other version: another
    version of saltray made it, whose manifest this one cannot read. corrupted: its manifest cannot be read."""
    owner: Owner | None
    """The process that works on it, or did last."""
    done: int
    """Folds that are done."""
    count: int
    """Folds in all."""
    faults: tuple[str, ...] = ()
    """What cannot be read, a line each that names the object; the rest is shown."""


@dataclass(frozen=True, kw_only=True)
class RunStatus(RunSummary):
    """How far a run is."""

    folds: tuple[FoldStatus, ...]
    ensemble: str | None
    """URI of the newest published version of these very models."""
    manifest: EnsembleManifest | None
    """That version's manifest, with its scores and threshold."""


@dataclass(frozen=True, kw_only=True)
class PretrainStatus:
    """How far a pretraining is."""

    name: str
    uri: str
    state: Literal["running", "finished", "failed", "stopped", "stale", "other version", "corrupted"]
    """As of a run. finished: its weights are there. failed: its last attempt left an error, and nobody retries it."""
    owner: Owner | None
    """The process that works on it, or did last."""
    epochs: tuple[EpochRecord, ...]
    """Its epochs so far."""
    of: int
    """Epochs in all."""
    error: str | None = None
    """Last line of the error, where it failed."""
    faults: tuple[str, ...] = ()
    """What cannot be read, a line each that names the object; the rest is shown."""

    @property
    def weights(self) -> str:
        """URI of its weights, for `model.weights`, once it is finished."""
        return f"{self.uri}/{WEIGHTS}"


def run_status(root: Store, run: str) -> RunStatus:
    """How far each fold of a run is.

    Raises:
        NotFoundError: there is no such run.
        ConfigError: another version of saltray made it, whose manifest this one cannot read.
        IntegrityError: its manifest is corrupted.
    """
    home = find_run(root, run)
    summary, epochs, keys = _summary(home, run)
    live = summary.state == "running"
    faults = list(summary.faults)
    folds = tuple(
        _fold(home, fold, _below(keys, f"{fold_folder(fold)}/"), epochs, faults, live=live)
        for fold in range(summary.count)
    )
    published = published_version(root, run, [fold.result for fold in folds]) if summary.done == summary.count else None
    ensemble = None if published is None else f"{root.uri}/{version_prefix(run, published.version)}"
    known = vars(summary) | {"faults": tuple(faults)}
    return RunStatus(**known, folds=folds, ensemble=ensemble, manifest=published)


def run_summaries(root: Store) -> list[RunSummary]:
    """All runs of a store, by name."""
    found = []
    for name in root.folders(RUNS):
        try:
            found.append(_summary(root.sub(run_folder(name)), name)[0])
        except NotFoundError:  # its first process is about to write the manifest, or died before
            continue
        except (ConfigError, IntegrityError) as error:
            uri, faults = f"{root.uri}/{run_folder(name)}", (str(error),)
            state = _unreadable(error)
            found.append(RunSummary(run=name, uri=uri, state=state, owner=None, done=0, count=0, faults=faults))
    return found


def pretrain_statuses(root: Store) -> list[PretrainStatus]:
    """All pretrainings of a store, by name."""
    found = []
    for name in root.folders(PRETRAINED):
        home = root.sub(pretrained_folder(name))
        try:
            found.append(_pretraining(home, name))
        except NotFoundError:  # as of a run
            continue
        except (ConfigError, IntegrityError) as error:
            state, faults = _unreadable(error), (str(error),)
            found.append(
                PretrainStatus(name=name, uri=home.uri, state=state, owner=None, epochs=(), of=0, faults=faults)
            )
    return found


def _unreadable(error: ConfigError | IntegrityError) -> Literal["other version", "corrupted"]:
    """The state of what has a manifest that cannot be read; see `manifest_of`."""
    return "other version" if isinstance(error, ConfigError) else "corrupted"


def _pretraining(home: Store, name: str) -> PretrainStatus:
    of = manifest_of(home, PretrainManifest).config.train.epochs
    keys = {entry.key for entry in home.list()}
    owner, faults = _owner(home, keys, "the pretraining")
    records = (_read(lambda: read_history(home), faults) if HISTORY in keys else None) or ()
    state = _state(owner, complete={RESULT, WEIGHTS} <= keys)
    failed = ERROR in keys and state not in ("running", "finished")
    return PretrainStatus(
        name=name,
        uri=home.uri,
        state="failed" if failed else state,
        owner=owner,
        epochs=epochs_of(records),
        of=of,
        error=_last_line(home) if failed else None,
        faults=tuple(faults),
    )


def _summary(home: Store, run: str) -> tuple[RunSummary, int, set[str]]:
    """The run in short, the epochs of a fold, and the keys of all that the run has in the store."""
    config = manifest_of(home, RunManifest).config
    count = config.folds.count
    keys = {entry.key for entry in home.list()}
    owner, faults = _owner(home, keys, "the run")
    done = sum(f"{fold_folder(fold)}/{RESULT}" in keys for fold in range(count))
    state = _state(owner, complete=done == count and REPORT in keys)
    summary = RunSummary(run=run, uri=home.uri, state=state, owner=owner, done=done, count=count, faults=tuple(faults))
    return summary, config.train.epochs, keys


def _owner(home: Store, keys: set[str], what: str) -> tuple[Owner | None, list[str]]:
    """Who works on it or did last, and a fault where there is a lock that does not tell."""
    owner = owner_of(home)
    lock = [] if owner is not None else sorted(key for key in keys if key.startswith(f"{LOCK}/"))[-1:]
    return owner, [f"{home.uri}/{key}: it cannot be read, so it is unknown who works on {what}" for key in lock]


def _state(owner: Owner | None, *, complete: bool) -> Literal["running", "finished", "stopped", "stale"]:
    if owner is not None and owner.is_alive():
        return "running"
    if complete:
        return "finished"
    return "stopped" if owner is None or owner.released else "stale"


def _below(keys: Iterable[str], prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def _read(read: Callable[[], T], faults: list[str]) -> T | None:
    """What `read` returns; None, and one more fault, where it is corrupted."""
    try:
        return read()
    except IntegrityError as error:
        faults.append(str(error))
        return None


def _fold(run: Store, fold: int, keys: set[str], of: int, faults: list[str], *, live: bool) -> FoldStatus:
    home = run.sub(fold_folder(fold))
    records = (_read(lambda: read_history(home), faults) if HISTORY in keys else None) or ()
    epochs = epochs_of(records)
    result = _read(lambda: fold_result(run, fold), faults) if RESULT in keys else None
    at = result.finished if result is not None else records[-1].at if records else None
    quiet = 0.0 if at is None else time.time() - at
    recent = [epoch.seconds for epoch in epochs[-PACE_EPOCHS:]]
    pace = sum(recent) / len(recent) if recent else 0.0
    state: FoldState
    if result is not None:
        state = "done"
    elif RESULT in keys:
        state = "corrupted"
    elif ERROR in keys:  # of its last attempt: the next one deletes it first
        state = "failed"
    elif live and at is not None and quiet < max(QUIET_EPOCHS * pace, QUIET_S):
        state = "training"
    elif live:
        state = "queued"
    else:
        state = "unfinished" if records else "not started"
    return FoldStatus(
        fold=fold,
        state=state,
        epochs=epochs,
        of=of,
        result=result,
        checkpoint=max((epoch for key in keys if (epoch := checkpoint_epoch(key)) is not None), default=None),
        at=at,
        left=max(0.0, (of - len(epochs)) * pace - quiet) if state == "training" and epochs else None,
        error=_last_line(home) if state == "failed" else None,
    )


def _last_line(home: Store) -> str:
    """Of the error."""
    try:
        lines = home.get(ERROR).decode(errors="replace").strip().splitlines()
    except NotFoundError:  # the fold was retried just now
        lines = []
    return lines[-1] if lines else "no reason was recorded"


def published_version(root: Store, run: str, results: Sequence[FoldResult | None]) -> EnsembleManifest | None:
    """The newest published version of the models of a run's folds; None where there is none."""
    models = [model.sha256 for result in results if result is not None for model in result.models]
    for version in reversed(versions_of(root, run)):
        if version.manifest is not None and [member.sha256 for member in version.manifest.members] == models:
            return version.manifest
    return None
