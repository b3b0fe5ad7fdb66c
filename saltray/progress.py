"""What a long command tells while it runs: typed events for an observer.

An observer is any callable that takes an `Event`; every command that takes time has an `observer` argument. The default
one, `log_event`, logs one line per event under `logging.getLogger("saltray")`. Events arrive in the process, and the
thread, that called the command.

    events = []
    saltray.train(config, observer=events.append)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

log = logging.getLogger("saltray")

TrialStatus = Literal["running", "finished", "stopped", "diverged", "failed"]


class Event:
    """Something that happened. `str(event)` says it in a line or a few; `failure` marks what went wrong."""

    failure = False
    warning = False


Observer = Callable[[Event], None]


def log_event(event: Event) -> None:
    """The default observer: a warning for what went wrong, information for the rest."""
    log.log(logging.WARNING if event.failure or event.warning else logging.INFO, "%s", event)


class FoldShare(Protocol):
    """How many tiles a fold holds out, and of what kind; see `data.folds.FoldBalance`."""

    @property
    def fold(self) -> int: ...
    @property
    def tiles(self) -> int: ...
    @property
    def empty_share(self) -> float: ...
    @property
    def coverage(self) -> float: ...


# -- before training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RayConnected(Event):
    """A Ray was started, or a cluster joined."""

    where: str
    """The cluster in words."""
    logs: str
    """Folder with the logs of Ray and its workers, on each machine of the cluster."""

    def __str__(self) -> str:
        return f"logs of {self.where}: {self.logs}"


@dataclass(frozen=True)
class TilesWritten(Event):
    """Synthetic tiles were written."""

    tiles: int
    folder: str

    def __str__(self) -> str:
        return f"wrote {self.tiles} synthetic tiles to {self.folder}"


@dataclass(frozen=True)
class TilesImported(Event):
    """So many of a raw data set's tiles are decoded and checked, or so many synthetic ones drawn."""

    done: int
    total: int

    def __str__(self) -> str:
        return f"tiles: {self.done:,} of {self.total:,}"


@dataclass(frozen=True)
class DataNote(Event):
    """Something of the data set that was read in another way than the most usual one."""

    text: str

    def __str__(self) -> str:
        return f"data set: {self.text}"


@dataclass(frozen=True)
class LockTakenOver(Event):
    """The last process that worked on this run or search died without releasing its lock."""

    owner: str
    warning = True

    def __str__(self) -> str:
        return f"took over the stale lock of {self.owner}"


@dataclass(frozen=True)
class SearchValuesTaken(Event):
    """A run takes over the values that a search found best."""

    uri: str
    trial: str
    values: Mapping[str, str | float | bool]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return f"from {self.uri}, {self.trial}: {values}"


@dataclass(frozen=True, kw_only=True)
class RunPlanned(Event):
    """Every number derived from a run's configuration and tiles."""

    run: str
    tiles: int
    height: int
    width: int
    input_size: int
    resize: int = 1
    """Factor by which the tiles are enlarged."""
    epochs: int
    steps: int
    """Steps of an epoch of the largest fold."""
    batch_size: int
    ranks: int
    """Ranks of a fold."""
    pseudo: int = 0
    """Test tiles with pseudo-labels, which every fold trains on."""
    split: Sequence[FoldShare]

    def __str__(self) -> str:
        enlarged = f", enlarged {self.resize} times" * (self.resize > 1)
        return (
            f"run {self.run}: {self.tiles} tiles of {self.height}x{self.width}{enlarged}, padded to {self.input_size}; "
            f"{self.epochs} epochs of up to {self.steps} steps of {self.batch_size} tiles "
            f"({self.batch_size // self.ranks} a rank)"
        ) + f", {self.pseudo} test tiles with pseudo-labels among them" * (self.pseudo > 0)


@dataclass(frozen=True, kw_only=True)
class SearchPlanned(Event):
    """Every number derived from a search's configuration and tiles."""

    search: str
    tiles: int
    folds: tuple[int, ...]
    held_out: tuple[int, ...]
    """Held-out tiles of each of these folds."""
    trials: int
    epochs: int
    steps: int
    """Steps of an epoch, over all these folds."""
    batch_size: int
    space: Mapping[str, str]
    rungs: tuple[int, ...]
    """Epochs after which trials are compared; empty without pruning."""

    def __str__(self) -> str:
        folds = f"fold{'s' * (len(self.folds) > 1)} {', '.join(map(str, self.folds))}"
        text = (
            f"search {self.search}: {self.tiles} tiles, {folds} held out ({', '.join(map(str, self.held_out))} tiles); "
            f"up to {self.trials} trials of {self.epochs} epochs of {self.steps} steps of {self.batch_size} tiles"
        )
        text += "".join(f"\n  {name} in {values}" for name, values in self.space.items())
        if self.rungs:
            rungs = ", ".join(map(str, self.rungs))
            text += f"\na trial continues after epoch {rungs} only if it is among the better third there"
        return text


@dataclass(frozen=True)
class RangeTestPlanned(Event):
    """A learning-rate range test is about to start."""

    steps: int
    batch_size: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"range test: {self.steps} steps of {self.batch_size} tiles, learning rate {self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class PretrainPlanned(Event):
    """Every number derived from a pretraining's configuration and images."""

    name: str
    tiles: int
    height: int
    width: int
    input_size: int
    hidden: int
    """Hidden patches of a tile."""
    patch: int
    """Height and width of a patch, in pixels."""
    epochs: int
    steps: int
    """Steps of an epoch."""
    batch_size: int
    ranks: int

    def __str__(self) -> str:
        return (
            f"pretraining {self.name}: {self.tiles} images of {self.height}x{self.width}, padded to {self.input_size}, "
            f"with {self.hidden} patches of {self.patch}x{self.patch} hidden; {self.epochs} epochs of {self.steps} "
            f"steps of {self.batch_size} images ({self.batch_size // self.ranks} a rank)"
        )


@dataclass(frozen=True)
class FoldsFinishedBefore(Event):
    """Folds that an earlier command finished; they are not trained again."""

    folds: tuple[int, ...]

    def __str__(self) -> str:
        return f"finished before: fold {', '.join(map(str, self.folds))}"


@dataclass(frozen=True)
class TrialsStartedBefore(Event):
    """Trials that an earlier command started."""

    trials: int
    kept: int
    """Those of them that have ended, and are kept."""

    def __str__(self) -> str:
        return f"started before: {self.trials} trials, of which {self.kept} have ended and are kept"


@dataclass(frozen=True, kw_only=True)
class CapacityFound(Event):
    """How many jobs the cluster runs at once."""

    where: str
    """The cluster in words."""
    job: Literal["fold", "trial", "test", "pretraining"]
    needs: str
    """What one of them needs, in words."""
    jobs: int
    concurrency: int
    """Jobs that run at once."""
    ready: int
    """Jobs that fit on the nodes that are already up; where these are fewer, the cluster grows first."""
    folds: tuple[int, ...] = ()
    """The folds that are trained, where each is a job."""

    def __str__(self) -> str:
        if self.job in ("test", "pretraining"):
            return f"on {self.where}: it needs {self.needs}"
        text = f"on {self.where}: a {self.job} needs {self.needs}; "
        if self.job == "trial":
            return f"{text}{self.concurrency} at once"
        text += f"{self.concurrency} of {self.jobs} folds at once"
        queued = self.jobs - self.concurrency
        text += f", {queued} queued" if queued else ""
        if self.ready < self.concurrency:
            text += f"\n{self.ready} can start now; the cluster takes some minutes to grow"
        return text


@dataclass(frozen=True)
class StoreMustBeShared(Event):
    """The store is a folder, and the cluster can grow."""

    uri: str
    warning = True

    def __str__(self) -> str:
        return f"the store is a folder: nodes that join later must mount it, too, at {self.uri}"


# -- folds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldStarted(Event):
    """A fold's job was handed to Ray."""

    fold: int

    def __str__(self) -> str:
        return f"fold {self.fold}  started"


@dataclass(frozen=True)
class FoldWaiting(Event):
    """A fold that was started has no resources yet."""

    fold: int
    minutes: float
    warning = True

    def __str__(self) -> str:
        return (
            f"fold {self.fold}  has waited {self.minutes:.0f} min for its nodes; `ray status` on the head node says why"
        )


@dataclass(frozen=True)
class FoldResumed(Event):
    """A fold resumed from a checkpoint: after an earlier command, or after it lost a worker."""

    fold: int
    epoch: int
    """Finished epochs in the checkpoint."""

    def __str__(self) -> str:
        return f"fold {self.fold}  resumes after epoch {self.epoch}, from its last checkpoint"


@dataclass(frozen=True)
class FoldNote(Event):
    """Something about a fold that was not as expected, and its consequence."""

    fold: int
    text: str
    warning = True

    def __str__(self) -> str:
        return f"fold {self.fold}  {self.text}"


@dataclass(frozen=True, kw_only=True)
class FoldEpoch(Event):
    """A fold finished an epoch."""

    fold: int
    epoch: int
    epochs: int
    loss: float
    score: float | None
    """Validation score; None in an epoch without validation."""
    images_per_second: float

    def __str__(self) -> str:
        score = "" if self.score is None else f"  score {self.score:.4f}"
        return (
            f"fold {self.fold}  epoch {self.epoch:>3}/{self.epochs}  loss {self.loss:.4f}{score}"
            f"  {self.images_per_second:.0f} images/s"
        )


@dataclass(frozen=True, kw_only=True)
class FoldFinished(Event):
    """A fold is finished, and its result is in the store."""

    fold: int
    score: float
    seconds: float
    queued: int
    """Folds that are not started yet."""

    def __str__(self) -> str:
        queued = f"  ({self.queued} queued)" if self.queued else ""
        return f"fold {self.fold}  done  score {self.score:.4f}  {self.seconds:.0f} s{queued}"


@dataclass(frozen=True, kw_only=True)
class FoldFailed(Event):
    """A fold failed; the others continue."""

    fold: int
    reason: str
    queued: int
    failure = True

    def __str__(self) -> str:
        queued = f"  ({self.queued} queued)" if self.queued else ""
        return f"fold {self.fold}  failed; the others continue{queued}: {self.reason}"


@dataclass(frozen=True)
class FoldsMissing(Event):
    """The folds that were asked for are finished, and others are not: nothing is published."""

    run: str
    folds: tuple[int, ...]
    """Those that are missing."""

    def __str__(self) -> str:
        folds = f"fold{'s' * (len(self.folds) > 1)} {', '.join(map(str, self.folds))}"
        return f"run {self.run} is not published: {folds} missing; the same command for all folds trains the rest"


@dataclass(frozen=True)
class Published(Event):
    """An ensemble was published, or this very one was already."""

    uri: str

    def __str__(self) -> str:
        return f"published {self.uri}"


@dataclass(frozen=True)
class MLflowFailed(Event):
    """MLflow cannot be reached, or refuses; nothing else depends on it."""

    reason: str
    what: Literal["run", "search"] = "run"
    warning = True

    def __str__(self) -> str:
        return f"MLflow lacks a part of this {self.what}, which the same command sends later: {self.reason}"


# -- pretraining -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PretrainFinishedBefore(Event):
    """An earlier command finished this pretraining; it is not trained again."""

    name: str

    def __str__(self) -> str:
        return f"finished before: pretraining {self.name}"


@dataclass(frozen=True)
class PretrainResumed(Event):
    """A pretraining resumed from a checkpoint: after an earlier command, or after it lost a worker."""

    epoch: int
    """Finished epochs in the checkpoint."""

    def __str__(self) -> str:
        return f"resumes after epoch {self.epoch}, from the last checkpoint"


@dataclass(frozen=True)
class PretrainWaiting(Event):
    """A pretraining that was started has no resources yet."""

    minutes: float
    warning = True

    def __str__(self) -> str:
        return f"it has waited {self.minutes:.0f} min for its nodes; `ray status` on the head node says why"


@dataclass(frozen=True)
class PretrainNote(Event):
    """Something about a pretraining that was not as expected, and its consequence."""

    text: str
    warning = True

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class PretrainEpoch(Event):
    """A pretraining finished an epoch."""

    epoch: int
    epochs: int
    loss: float
    """Mean absolute error of the hidden pixels, as a share of the full range."""
    images_per_second: float

    def __str__(self) -> str:
        return f"epoch {self.epoch:>3}/{self.epochs}  loss {self.loss:.4f}  {self.images_per_second:.0f} images/s"


# -- trials ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrialState:
    """How far one trial of a search is."""

    name: str
    status: TrialStatus
    values: Mapping[str, str | float | bool]
    epochs: int
    """Finished epochs."""
    length: int
    """Epochs of a whole trial."""
    score: float | None = None
    """Best validation score so far; None before the first, and for a trial that diverged or failed."""
    best_epoch: int | None = None
    """Epoch of that score."""
    reason: str | None = None
    """Why it diverged or failed."""

    @property
    def values_text(self) -> str:
        """What it tries, in one line."""
        return "  ".join(f"{name} {number_text(value)}" for name, value in self.values.items())


def number_text(value: Any) -> str:
    """A searched value for a person."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class TrialsRunning(Event):
    """The trials are about to run; those known are of an earlier command."""

    known: tuple[TrialState, ...]
    limit: int
    """Trials at most."""
    fields: tuple[str, ...]
    """What is searched."""

    def __str__(self) -> str:
        return f"up to {self.limit} trials run"


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial was started, or started again: after an earlier command, or after its process died."""

    trial: TrialState

    def __str__(self) -> str:
        resumed = f"  (from epoch {self.trial.epochs})" if self.trial.epochs else ""
        return f"{self.trial.name}  {self.trial.values_text}{resumed}"


@dataclass(frozen=True)
class TrialEpoch(Event):
    """A trial finished an epoch."""

    trial: TrialState
    score: float | None
    """Validation score of this epoch."""

    def __str__(self) -> str:
        score = "" if self.score is None else f"  score {self.score:.4f}"
        return f"{self.trial.name}  epoch {self.trial.epochs:>3}/{self.trial.length}{score}"


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial finished, was stopped, diverged or failed."""

    trial: TrialState

    @property
    def failure(self) -> bool:  # type: ignore[override]
        """Whether it diverged or failed."""
        return self.trial.status in ("diverged", "failed")

    def __str__(self) -> str:
        trial = self.trial
        score = "" if trial.score is None else f"  best score {trial.score:.4f} in epoch {trial.best_epoch}"
        why = f": {trial.reason}" if trial.reason else ""
        return f"{trial.name}  {trial.status} after epoch {trial.epochs}{score}{why}"


@dataclass(frozen=True)
class TrialsEnded(Event):
    """No trial runs any more."""

    def __str__(self) -> str:
        return "all trials have ended"


# -- prediction --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TilesClipped(Event):
    """Some tiles to predict have values above the range of the training images."""

    names: tuple[str, ...]
    warning = True

    def __str__(self) -> str:
        more = f" and {len(self.names) - 3:,} more" * (len(self.names) > 3)
        tiles = "1 tile is" if len(self.names) == 1 else f"{len(self.names):,} tiles are"
        return f"{tiles} brighter than any training image, and the excess is cut off: {', '.join(self.names[:3])}{more}"


@dataclass(frozen=True, kw_only=True)
class PredictionPlanned(Event):
    """A data set is about to be predicted."""

    tiles: int
    ensemble: str
    """Name and version."""
    where: str
    workers: int
    device: Literal["GPU", "CPU"]

    def __str__(self) -> str:
        return (
            f"predicting {self.tiles} tiles with {self.ensemble} on {self.where}: {self.workers} {self.device} "
            f"worker{'s' * (self.workers > 1)}"
        )


@dataclass(frozen=True)
class TilesPredicted(Event):
    """How many of the tiles are predicted and written; told about twice a second, and at the end."""

    done: int
    total: int

    def __str__(self) -> str:
        return f"predicted {self.done:,} of {self.total:,} tiles"


# -- serving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ServingPlanned(Event):
    """An ensemble is about to be served."""

    ensemble: str
    """Name and version."""
    where: str
    replicas: int
    """Processes with the models, at first."""
    max_replicas: int
    device: Literal["GPU", "CPU"]

    def __str__(self) -> str:
        count = f"{self.replicas}" + f" to {self.max_replicas}" * (self.max_replicas > self.replicas)
        replicas = f"{count} {self.device} replica{'s' * (self.max_replicas > 1)}"
        return f"loading {self.ensemble} on {self.where}: {replicas}"


@dataclass(frozen=True, kw_only=True)
class ServingStarted(Event):
    """The models are loaded, and requests are answered."""

    ensemble: str
    url: str
    height: int
    width: int
    follows: bool
    """Whether a newer version is served once it is published."""

    def __str__(self) -> str:
        then = "; a newer version is served once it is published" * self.follows
        return f"serving {self.ensemble}, tiles of {self.height}x{self.width}, at {self.url}{then}; Ctrl-C ends it"


@dataclass(frozen=True)
class ServingWaiting(Event):
    """The models have no resources yet, or are slow to load."""

    minutes: float
    warning = True

    def __str__(self) -> str:
        return f"not ready after {self.minutes:.0f} min; `ray status` on the head node says what it waits for"


@dataclass(frozen=True)
class ServingUpdated(Event):
    """A newer version was loaded and is served instead."""

    ensemble: str

    def __str__(self) -> str:
        return f"now serving {self.ensemble}"


@dataclass(frozen=True)
class ServingKept(Event):
    """A newer version cannot be served, or not be looked for: the old one still is."""

    ensemble: str
    """What is served."""
    reason: str
    failure = True

    def __str__(self) -> str:
        return f"still serving {self.ensemble}: {self.reason}"
