"""The trials of a search in the store, written before they start and when they end.

`trial-007/trial.json` says what the trial tries, `trial-007/result.json` how it ended, and both are JSON; nothing that
Ray Tune keeps is needed to resume, so no pickle crosses the store.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from saltray.config import Name, Space, StoredConfig, Values
from saltray.data.packed import DatasetManifest
from saltray.ensemble.manifest import PseudoLabelsProvenance, WeightsProvenance, provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.progress import TrialState, TrialStatus
from saltray.records import Count, Fold, Many, Sha256
from saltray.runs.history import HISTORY_BYTES, EpochRecord, epochs_of, read_history
from saltray.runs.layout import CHECKPOINT_MANIFEST, CHECKPOINTS
from saltray.runs.manifests import changed_unseen, manifest_of
from saltray.runs.records import CheckpointManifest
from saltray.runs.run import changed_labels, changed_settings, has_epochs, identity_of
from saltray.search.layout import MANIFEST, RESULT, TRIAL, TRIAL_PREFIX, trial_folder
from saltray.search.objective import best_epoch, objective
from saltray.search.space import has_value
from saltray.search.spec import SearchSpec
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics
from saltray.wording import excerpt, plain

READERS = 16
"""Trials that are read at once: of a bucket, most of the time is waiting."""
_RERUN = "delete this trial, and it is run again"


@dataclass(frozen=True, kw_only=True)
class SearchManifest:
    """`searches/<search>/manifest.json`: what the search is; written first, and only once."""

    search: Name
    identity: Sha256
    """Digest of all that decides which trials there are and what they score."""
    config: StoredConfig
    space: dict[str, str]
    folds: tuple[Fold, ...]
    sampler: Literal["quasirandom", "tpe"]
    prune: bool
    seed: int
    dataset: Sha256
    """Content digest of the tiles."""
    initial_weights: WeightsProvenance | None = None
    """The weights that training starts from, where some were given."""
    pseudo_labels: PseudoLabelsProvenance | None = None
    """The models that label test tiles, where training uses some."""
    provenance: dict[str, str | None]
    """Versions of the libraries, and the git commit."""


@dataclass(frozen=True, kw_only=True)
class TrialValues:
    """`trial-k/trial.json`: what a trial tries."""

    index: Count
    values: Values


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """`trial-k/result.json`: how a trial ended."""

    MAX_BYTES: ClassVar[int] = HISTORY_BYTES
    status: TrialStatus
    reason: str | None
    epochs: Many[EpochRecord | EpochMetrics]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values, and how far it is."""

    index: int
    values: Values
    status: TrialStatus = "running"
    """running: not ended yet. finished: all epochs. stopped: by ASHA, as others were better after as many epochs.
    diverged: a loss became NaN or infinite. failed: for another reason; the same search retries it."""
    epochs: tuple[EpochMetrics, ...] = ()
    """Its epochs so far."""
    reason: str | None = None
    """Why it diverged or failed."""

    @property
    def name(self) -> str:
        """Its folder in the search's part of the store."""
        return trial_folder(self.index)

    @property
    def best(self) -> EpochMetrics | None:
        """Its best epoch; None for a trial that diverged or failed, which loses whatever it scored before."""
        return None if self.status in ("diverged", "failed") else best_epoch(self.epochs)

    @property
    def rank(self) -> tuple[float, int]:
        """The greatest is the best trial; among equals the first."""
        return objective(self.best), -self.index

    @property
    def seconds(self) -> float:
        """Time in the training loop, without start-up."""
        return float(sum(epoch.seconds for epoch in self.epochs))

    @property
    def resumable(self) -> bool:
        """Whether the same search runs it (again)."""
        return self.status in ("running", "failed")

    def state(self, length: int) -> TrialState:
        """For an observer; `length` is the epochs of a whole trial."""
        best = self.best
        return TrialState(
            name=self.name,
            status=self.status,
            values=self.values,
            epochs=len(self.epochs),
            length=length,
            score=None if best is None else best.score,
            best_epoch=None if best is None else best.epoch,
            reason=self.reason,
        )


def is_complete(home: Store, trials: int) -> bool:
    """Whether so many trials have ended, none of which is to be run again; nothing is written."""
    results = [result for name in _trial_folders(home) if (result := _result(home, name)) is not None]
    return sum(result.status != "failed" for result in results) >= trials


def create_search(
    home: Store,
    spec: SearchSpec,
    dataset: DatasetManifest,
    initial_weights: str | None,
    weights_provenance: WeightsProvenance | None = None,
    pseudo_labels: PseudoLabelsProvenance | None = None,
) -> SearchManifest:
    """Write what the search is; every later command must agree with it, once a trial has finished an epoch or ended.

    Args:
        home: the search's part of the store; the caller holds its lock.
        spec: the search.
        dataset: the packed tiles.
        initial_weights: digest of the weights before training, where some were given.
        weights_provenance: where they come from.
        pseudo_labels: the models that label test tiles, and these, where training uses some.

    Returns:
        the manifest of the command that created the search.

    Raises:
        ConfigError: a search of this name has trials of other settings or other tiles.
    """
    settings = spec.settings
    manifest = SearchManifest(
        search=spec.name,
        identity=identity_of(spec.identity, dataset.digest, initial_weights, pseudo_labels),
        config=spec.config,
        space=spec.space_text,
        folds=settings.folds,
        sampler=settings.sampler,
        prune=settings.prune,
        seed=settings.seed,
        dataset=dataset.digest,
        initial_weights=weights_provenance,
        pseudo_labels=pseudo_labels,
        provenance=provenance(),
    )
    before = manifest
    if not home.put_new_record(MANIFEST, manifest):
        before = manifest_of(home, SearchManifest)
    names = _trial_folders(home)
    if before.identity != manifest.identity and not any(_has_progress(home, name) for name in names):
        # The manifest comes last: an interrupted replacement is one still.
        for name in names:
            home.delete_prefix(name)
        home.put_record(MANIFEST, manifest)
        before = manifest
    if before.identity != manifest.identity:
        changed = [] if before.dataset == manifest.dataset else ["tiles"]
        own = ("space", "folds", "sampler", "prune", "seed")
        changed += [f"search.{name}" for name in own if getattr(before, name) != getattr(manifest, name)]
        changed += changed_settings(before.config, spec.config) or changed_labels(before.pseudo_labels, pseudo_labels)
        raise ConfigError(
            f"search {spec.name} was started with other {', '.join(changed) or changed_unseen(before.provenance)}; "
            "use those again to resume it, or choose another --search.name"
        )
    return before


def create_trial(home: Store, index: int, values: Values) -> Trial:
    """Write a new trial before it starts."""
    trial = Trial(index=index, values=values)
    home.put_record(f"{trial.name}/{TRIAL}", TrialValues(index=index, values=dict(values)))
    return trial


def finish_trial(home: Store, trial: Trial) -> None:
    """Write how a trial ended, and delete its checkpoints unless another attempt is to resume from them."""
    result = TrialResult(status=trial.status, reason=trial.reason, epochs=trial.epochs)
    home.put_record(f"{trial.name}/{RESULT}", result)
    clear_checkpoints(home, [trial])


def clear_checkpoints(home: Store, trials: Iterable[Trial]) -> None:
    """Delete what no trial resumes from. One that was stopped may write one more while its workers are ending."""
    for trial in trials:
        if not trial.resumable:
            home.delete_prefix(f"{trial.name}/{CHECKPOINTS}")


def load_trials(home: Store, epochs: int) -> list[Trial]:
    """All trials so far, in order.

    Args:
        home: the search's part of the store.
        epochs: those of a whole trial. One that had run them all when its driver died is finished now.

    Raises:
        IntegrityError: a trial's records are corrupted.
    """
    trials = (_load_trial(home, name, epochs) for name in _trial_folders(home))
    return sorted(trials, key=lambda trial: trial.index)


def read_epochs(home: Store, names: Sequence[str]) -> list[tuple[EpochMetrics, ...]]:
    """The epochs of some trials that have ended, in the order of the names; nothing is written.

    Raises:
        NotFoundError: one of them has not ended.
        IntegrityError: the result of one is corrupted.
    """

    def read(name: str) -> tuple[EpochMetrics, ...]:
        return home.get_record(f"{name}/{RESULT}", TrialResult).epochs

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, names))


def _trial_folders(home: Store) -> list[str]:
    return [name for name in home.folders() if name.startswith(TRIAL_PREFIX)]


def _result(home: Store, name: str) -> TrialResult | None:
    """How a trial ended; None where it has not."""
    try:
        return home.get_record(f"{name}/{RESULT}", TrialResult)
    except NotFoundError:
        return None


def _has_progress(home: Store, name: str) -> bool:
    """Whether a trial has finished an epoch, or ended otherwise than by a failure that says nothing of its values."""
    result = _result(home, name)
    ended = result is not None and (result.status != "failed" or bool(result.epochs))
    return ended or has_epochs(home.sub(name))


def check_values(home: Store, trials: Iterable[Trial], space: Space) -> None:
    """Check that each trial has a possible value for each field that the search varies.

    Raises:
        IntegrityError: one does not.
    """
    for trial in trials:
        if unknown := sorted(trial.values.keys() - space.keys()):
            fault = f"values.{plain(unknown[0])} is no searched field"
        elif missing := sorted(space.keys() - trial.values.keys()):
            fault = f"values.{missing[0]} is missing"
        elif wrong := [field for field, value in trial.values.items() if not has_value(space[field], value)]:
            fault = f"values.{wrong[0]} is {excerpt(trial.values[wrong[0]])}, which is not in the search's space"
        else:
            continue
        raise IntegrityError(f"{home.uri}/{trial.name}/{TRIAL}: {fault}; {_RERUN}")


def _load_trial(home: Store, name: str, epochs: int) -> Trial:
    tried = home.get_record(f"{name}/{TRIAL}", TrialValues)
    trial = Trial(index=tried.index, values=tried.values)
    if trial.name != name:
        raise IntegrityError(f"{home.uri}/{name}/{TRIAL}: index is {trial.index}, which is of {trial.name}; {_RERUN}")
    result = _result(home, name)
    if result is None:
        history = epochs_of(read_history(home.sub(name)))
        if not history or history[-1].epoch < epochs:
            return replace(trial, epochs=_checkpointed_epochs(home.sub(name)))
        ended = replace(trial, status="finished", epochs=history)
        finish_trial(home, ended)
        return ended
    # A failed trial resumes from its newest checkpoint, which may be earlier than the epoch that it reached.
    epochs_kept = _checkpointed_epochs(home.sub(name)) if result.status == "failed" else result.epochs
    return replace(trial, status=result.status, reason=result.reason, epochs=epochs_kept)


def _checkpointed_epochs(home: Store) -> tuple[EpochRecord, ...]:
    """The epochs up to a trial's newest checkpoint, from which it resumes; its history may reach further."""
    for folder in reversed(home.folders(CHECKPOINTS)):
        with suppress(NotFoundError):  # incomplete: the manifest comes last
            manifest = home.get_record(f"{CHECKPOINTS}/{folder}/{CHECKPOINT_MANIFEST}", CheckpointManifest)
            return epochs_of(manifest.history)
    return ()
