"""`saltray tune`: Ray Tune runs trials, each a Ray Train job on the workers that train the folds."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from saltray.commands.prepare import Prepared, open_for_writing, prepare, share
from saltray.config import Config, SearchConfig
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.errors import SearchFailedError
from saltray.progress import (
    CapacityFound,
    DataNote,
    LockTakenOver,
    Observer,
    SearchPlanned,
    TrialsEnded,
    TrialsRunning,
    TrialsStartedBefore,
    log_event,
)
from saltray.report.search_figures import TrialCurve, draw_search
from saltray.runs.initial_weights import origins_before
from saltray.runs.tracking import check_tracking, tracked
from saltray.search.layout import FIGURE, search_folder
from saltray.search.mlflow_search import MLflowSearch
from saltray.search.results import trials_frame, write_best, write_table
from saltray.search.samplers import import_optuna
from saltray.search.space import apply_values
from saltray.search.spec import SearchSpec
from saltray.search.trials import (
    SearchManifest,
    Trial,
    check_values,
    clear_checkpoints,
    create_search,
    is_complete,
    load_trials,
)
from saltray.storage.base import Store
from saltray.storage.lock import RunLock

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    name: str
    spec: SearchSpec
    best: Trial
    trials: tuple[Trial, ...]
    """All of them, in order."""
    best_config: Config
    """The configuration that was searched around, with the best trial's values."""
    uri: str
    """Where its results are: manifest.json, trials.parquet, best.json, search.png, tensorboard/."""

    @property
    def score(self) -> float:
        """Best validation score of the best trial."""
        assert self.best.best is not None
        assert self.best.best.score is not None
        return self.best.best.score

    @property
    def table(self) -> "pd.DataFrame":
        """One row per trial: trial, status, the searched fields, score, valid_loss, epoch, epochs, seconds, reason."""
        return trials_frame(self.trials)


def tune(config: Config, search: SearchConfig | None = None, *, observer: Observer = log_event) -> SearchResult:
    """Search for the values of the highest validation score, and keep what was found under `searches/NAME`.

    Each trial trains `config` with other values, on some folds of the split and scored on their held-out tiles; its
    objective is the best score over its epochs. The same call again resumes an interrupted search, and with more trials
    it extends a finished one.

    Args:
        config: data, store and recipe.
        search: what to search, and how; the learning rate by default.
        observer: receives the events.

    Raises:
        ConfigError: the search does not fit the configuration, the tiles do not fit it or a trial's, or the search has
            trials of other settings or tiles.
        DataError: the tiles cannot be used; all faults at once.
        RunLockedError: another live process works on this search.
        ModelError: the initial weights cannot be read, or do not fit.
        ResourceError: the cluster can never hold one trial, or has a GPU that torch cannot use.
        SearchFailedError: no trial has a score.
        StorageError: the store cannot be reached or written.
    """
    spec = make_spec(config, search or SearchConfig())
    store = open_for_writing(config.store)
    check_search(spec, store)
    before = origins_before(store.sub(search_folder(spec.name)), SearchManifest, spec.config)
    prepared = prepare(spec.config, store, spec.variants, before=before, observer=observer)
    return tune_prepared(config, spec, store, prepared, observer)


def make_spec(config: Config, settings: SearchConfig) -> SearchSpec:
    """The search, whose sampler is installed.

    Raises:
        ConfigError: the search does not fit the configuration, or its sampler is not installed.
    """
    spec = SearchSpec.create(config, settings)
    if settings.sampler == "tpe":
        import_optuna()
    return spec


def check_search(spec: SearchSpec, store: Store) -> None:
    """Refuse machines that can never train a trial, unless all trials have ended, and a lack of MLflow.

    Raises:
        as `check_tracking` and `preflight`.
    """
    check_tracking()
    settings = spec.settings
    if not is_complete(store.sub(search_folder(spec.name)), settings.trials):
        preflight(spec.config.cluster, jobs=settings.concurrent or settings.trials, least_cpus=1)


def tune_prepared(
    config: Config, spec: SearchSpec, store: Store, prepared: Prepared, observer: Observer
) -> SearchResult:
    """`tune`, where what can be refused before it has been checked."""
    home = store.sub(search_folder(spec.name))
    with RunLock(home, f"search {spec.name}") as lock:
        if lock.taken_from is not None:
            observer(LockTakenOver(lock.taken_from))
        home = lock.guard(home)
        manifest = create_search(
            home,
            spec,
            prepared.dataset,
            prepared.initial_digest,
            prepared.weights_provenance,
            prepared.pseudo_provenance,
        )
        for note in prepared.dataset.notes:
            observer(DataNote(note))
        observer(_planned(spec, prepared))
        known = load_trials(home, spec.config.train.epochs)
        check_values(home, known, spec.settings.space)
        with tracked(MLflowSearch(home, manifest, known), observer) as tracking:
            trials = _run_missing(spec, home, known, prepared, lock, tracking)
            return _write_results(config, spec, home, trials)


def _planned(spec: SearchSpec, prepared: Prepared) -> SearchPlanned:
    train, folds = spec.config.train, spec.settings.folds
    pseudo = 0 if (labels := prepared.pseudo_provenance) is None else labels.tiles
    held_out = tuple(int(np.count_nonzero(prepared.fold_of == fold)) for fold in folds)
    return SearchPlanned(
        search=spec.name,
        tiles=len(prepared.tiles),
        folds=folds,
        held_out=held_out,
        trials=spec.settings.trials,
        epochs=train.epochs,
        steps=sum(-(-(len(prepared.tiles) - count + pseudo) // train.batch_size) for count in held_out),
        batch_size=train.batch_size,
        space=spec.space_text,
        rungs=spec.rungs,
    )


def _run_missing(
    spec: SearchSpec, home: Store, known: list[Trial], prepared: Prepared, lock: RunLock, observer: Observer
) -> list[Trial]:
    """All trials; those that an earlier command has ended as they are."""
    unfinished = [trial for trial in known if trial.resumable]
    if known:
        observer(TrialsStartedBefore(len(known), len(known) - len(unfinished)))
    settings, length = spec.settings, spec.config.train.epochs
    count = len(unfinished) + max(0, settings.trials - len(known))
    if count == 0:
        return known
    with ray_cluster(observer=observer) as where:
        from saltray.distributed.search_callback import SearchCallback
        from saltray.distributed.trial import TrialTemplate
        from saltray.distributed.tuner import run_trials

        jobs = settings.concurrent or count
        capacity = check_cluster(spec.config.cluster, home, jobs=jobs, least_cpus=1, observer=observer)
        concurrency = min(capacity.concurrency, count if settings.concurrent else max(1, capacity.ready))
        needs = str(capacity.resources)
        observer(
            CapacityFound(
                where=where, job="trial", needs=needs, jobs=count, concurrency=concurrency, ready=capacity.ready
            )
        )
        template = TrialTemplate(replace(share(prepared, spec.config, home), folds=settings.folds), capacity.resources)
        callback = SearchCallback(spec, home, known, lock, observer)
        states = tuple(trial.state(length) for trial in known)
        observer(TrialsRunning(known=states, limit=settings.trials, fields=tuple(spec.space_text)))
        try:
            run_trials(spec, template, callback, trials=count, concurrency=concurrency, lock=lock)
        finally:
            observer(TrialsEnded())
        return callback.trials


def _write_results(config: Config, spec: SearchSpec, home: Store, trials: list[Trial]) -> SearchResult:
    """Table, figure, and the best trial, if there is one."""
    best = max(trials, key=lambda trial: trial.rank)
    write_table(home, trials)
    if best.best is None:
        reasons = {trial.name: trial.reason or "" for trial in trials if trial.reason is not None}
        first = next((f"; the first, {name}: {reason}" for name, reason in reasons.items()), "")
        if all(trial.status == "diverged" for trial in trials):
            remedy = "search other values, under another --search.name"
        else:
            remedy = "fix the cause and run the same search again, which retries those that failed"
        what = f"none of {len(trials)} trials of search {spec.name} has a score{first}"
        raise SearchFailedError(f"{what}; {remedy}", reasons)
    clear_checkpoints(home, trials)
    write_best(home, spec, best, len(trials))
    home.put(FIGURE, draw_search([_curve(trial) for trial in trials], spec.settings.space, best.name))
    return SearchResult(
        name=spec.name,
        spec=spec,
        best=best,
        trials=tuple(trials),
        best_config=apply_values(config, best.values),
        uri=home.uri,
    )


def _curve(trial: Trial) -> TrialCurve:
    return TrialCurve(
        name=trial.name,
        status=trial.status,
        values=trial.values,
        score=trial.best.score if trial.best else None,
        epochs=[(epoch.epoch, epoch.score) for epoch in trial.epochs],
    )
