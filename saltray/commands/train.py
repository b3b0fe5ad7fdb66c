"""`saltray train`: tiles in, a published ensemble of cross-validated models out."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import overload

from saltray.commands.prepare import Prepared, open_for_writing, prepare, share
from saltray.commands.publish_run import TrainResult, publish_run
from saltray.config import Config
from saltray.data.folds import fold_balance
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.ensemble.manifest import SearchProvenance
from saltray.errors import ConfigError, FoldsFailedError, RunLockedError, StorageError
from saltray.progress import (
    CapacityFound,
    DataNote,
    Event,
    FoldFailed,
    FoldFinished,
    FoldsFinishedBefore,
    FoldsMissing,
    LockTakenOver,
    Observer,
    RunPlanned,
    SearchValuesTaken,
    log_event,
)
from saltray.runs.initial_weights import origins_before
from saltray.runs.layout import ERROR, fold_folder, run_folder
from saltray.runs.mlflow_run import MLflowRun
from saltray.runs.records import FoldResult, RunManifest
from saltray.runs.run import create_run, fold_result
from saltray.runs.tensorboard import write_fold_events
from saltray.runs.tracking import check_tracking, tracked
from saltray.search.results import with_best_values
from saltray.storage.base import Store
from saltray.storage.lock import RunLock


@dataclass(frozen=True, kw_only=True)
class PartialResult:
    """What a run has so far, some of whose folds were not asked for."""

    run: str
    results: tuple[FoldResult, ...]
    """Of the finished folds, in order."""
    missing: tuple[int, ...]
    """The folds that are not finished."""


@overload
def train(
    config: Config, *, from_search: str | None = None, only_folds: None = None, observer: Observer = log_event
) -> TrainResult: ...
@overload
def train(
    config: Config, *, from_search: str | None = None, only_folds: Sequence[int] | None, observer: Observer = log_event
) -> TrainResult | PartialResult: ...
def train(
    config: Config,
    *,
    from_search: str | None = None,
    only_folds: Sequence[int] | None = None,
    observer: Observer = log_event,
) -> TrainResult | PartialResult:
    """Train every fold that is not finished, publish the ensemble, and score it.

    The same call again resumes an interrupted run: finished folds are kept, the others resume from their last
    checkpoint. With more epochs, and a constant learning rate, it trains the same run longer and publishes a new
    version.

    Args:
        config: data, store and recipe.
        from_search: searches/NAME: use the values that this search found best in place of the configuration's, and
            record their provenance in the manifests.
        only_folds: train only these folds now. Nothing is published, and a `PartialResult` is returned, while others
            are missing; the same call without it finishes the run.
        observer: receives the events.

    Raises:
        DataError: the tiles cannot be used; all faults at once.
        ConfigError: the tiles do not fit the configuration, or the run has trained with other settings or tiles.
        ModelError: the initial weights cannot be read, or do not fit.
        RunLockedError: another live process trains this run.
        ResourceError: the cluster can never hold one fold, or has a GPU that torch cannot use.
        FoldsFailedError: some folds failed; the others are finished and kept.
        StorageError: the store cannot be reached or written.
    """
    asked = _asked(config, only_folds)
    store = open_for_writing(config.store)
    found: SearchProvenance | None = None
    if from_search is not None:
        config, found = take_best_values(config, from_search, observer)
    check_run(config, store, asked)
    before = origins_before(store.sub(run_folder(config.run)), RunManifest, config)
    prepared = prepare(config, store, before=before, observer=observer)
    return train_prepared(config, store, prepared, asked, found, observer)


def take_best_values(config: Config, source: str, observer: Observer) -> tuple[Config, SearchProvenance]:
    """`with_best_values`, which the observer is told."""
    config, found = with_best_values(config, source)
    observer(SearchValuesTaken(found.uri, found.trial, found.values))
    return config, found


def check_run(config: Config, store: Store, folds: Collection[int]) -> None:
    """Refuse machines that can never train a fold, unless all of these folds are finished, and a lack of MLflow.

    Raises:
        as `check_tracking` and `preflight`.
    """
    check_tracking()
    home = store.sub(run_folder(config.run))
    results = [fold_result(home, fold) for fold in folds]
    if any(result is None or result.epochs < config.train.epochs for result in results):
        preflight(config.cluster, jobs=len(folds))


def train_prepared(
    config: Config,
    store: Store,
    prepared: Prepared,
    asked: Collection[int],
    found: SearchProvenance | None,
    observer: Observer,
) -> TrainResult | PartialResult:
    """`train` of the folds that are `asked` for, where what can be refused before it has been checked."""
    home = store.sub(run_folder(config.run))
    with RunLock(home, f"run {config.run}") as lock:
        if lock.taken_from is not None:
            observer(LockTakenOver(lock.taken_from))
        home, store = lock.guard(home), lock.guard(store)
        for note in prepared.dataset.notes:
            observer(DataNote(note))
        manifest = create_run(
            home,
            config,
            tiles=prepared.tiles.index,
            fold_of=prepared.fold_of,
            dataset=prepared.dataset,
            initial_weights=prepared.initial_digest,
            search_provenance=found,
            weights_provenance=prepared.weights_provenance,
            pseudo_labels=prepared.pseudo_provenance,
        )
        with tracked(MLflowRun(home, manifest), observer) as tracking:
            tracking(_planned(config, prepared))
            results = _train_missing(config, home, prepared, asked, lock, tracking)
            if missing := set(range(config.folds.count)) - {result.fold for result in results}:
                tracking(FoldsMissing(config.run, tuple(sorted(missing))))
                return PartialResult(run=config.run, results=tuple(results), missing=tuple(sorted(missing)))
            return publish_run(config, store, prepared, results, manifest.search_provenance, tracking)


def _asked(config: Config, only_folds: Sequence[int] | None) -> tuple[int, ...]:
    """The folds to train, in order.

    Raises:
        ConfigError: there is no such fold, one is given twice, or none is.
    """
    count = config.folds.count
    if only_folds is None:
        return tuple(range(count))
    if not only_folds:
        raise ConfigError("only_folds names no fold; name one or more, such as 0,1, or leave it out")
    for fold in only_folds:
        if fold not in range(count):
            raise ConfigError(f"only_folds names fold {fold}; the split has folds 0 to {count - 1}")
    if len(set(only_folds)) != len(only_folds):
        raise ConfigError(f"only_folds {', '.join(map(str, only_folds))} lists one twice; list each once")
    return tuple(sorted(only_folds))


def _planned(config: Config, prepared: Prepared) -> RunPlanned:
    tiles, settings = prepared.tiles, config.train
    split = fold_balance(tiles.index.coverage, prepared.fold_of, config.folds.count)
    pseudo = 0 if (labels := prepared.pseudo_provenance) is None else labels.tiles
    largest = len(tiles) - min(row.tiles for row in split) + pseudo
    return RunPlanned(
        run=config.run,
        tiles=len(tiles),
        height=prepared.dataset.height,
        width=prepared.dataset.width,
        input_size=settings.input_size,
        resize=settings.resize,
        epochs=settings.epochs,
        steps=-(-largest // settings.batch_size),
        batch_size=settings.batch_size,
        ranks=config.cluster.workers_per_fold,
        pseudo=pseudo,
        split=split,
    )


def _writing_events(home: Store, observer: Observer) -> Observer:
    """An observer that writes TensorBoard's file of each fold that has ended."""

    def write(event: Event) -> None:
        observer(event)
        if isinstance(event, FoldFinished | FoldFailed):
            with suppress(StorageError, RunLockedError):  # published, it is written again; the other folds train on
                write_fold_events(home, event.fold)

    return write


def _train_missing(
    config: Config, home: Store, prepared: Prepared, asked: Collection[int], lock: RunLock, observer: Observer
) -> list[FoldResult]:
    """Results of all folds that are finished, those asked for among them; what the store has is not trained again."""
    count = config.folds.count
    done = {fold: result for fold in range(count) if (result := fold_result(home, fold)) is not None}
    missing = [fold for fold in asked if fold not in done]
    if done:
        observer(FoldsFinishedBefore(tuple(done)))
    for fold in done:  # its controller may have died after its result was written
        home.delete(f"{fold_folder(fold)}/{ERROR}")
    if not missing:
        return list(done.values())
    with ray_cluster(observer=observer) as where:
        from saltray.distributed.fold_jobs import train_folds

        capacity = check_cluster(config.cluster, home, jobs=len(missing), observer=observer)
        observer(
            CapacityFound(
                where=where,
                job="fold",
                needs=str(capacity.resources),
                jobs=len(missing),
                concurrency=capacity.concurrency,
                ready=capacity.ready,
                folds=tuple(missing),
            )
        )
        template = share(prepared, config, home)
        jobs = [replace(template, name=fold_folder(fold), folds=(fold,)) for fold in missing]
        outcomes = train_folds(jobs, capacity, lock.check, _writing_events(home, observer))
    for fault in (outcome.fault for outcome in outcomes if outcome.fault is not None):
        if isinstance(fault, RunLockedError):
            raise fault
        finished = len(done) + sum(outcome.result is not None for outcome in outcomes)
        raise StorageError(f"{fault}; {finished} of {count} folds are finished, and the same command trains the others")
    failures = {outcome.fold: outcome.failure for outcome in outcomes if outcome.failure is not None}
    if failures:
        numbers = ", ".join(map(str, sorted(failures)))
        if all(outcome.retryable for outcome in outcomes):
            remedy = "fix the cause and run the same command again to train only these"
        else:
            remedy = "as these settings would fail again, change them and choose another run name"
        kept = "; the others are finished and kept" if len(failures) < len(asked) else ""
        raise FoldsFailedError(
            f"{len(failures)} of {len(asked)} folds failed ({numbers}){kept}: {remedy}",
            failures,
        )
    done |= {outcome.fold: outcome.result for outcome in outcomes if outcome.result is not None}
    return [done[fold] for fold in sorted(done)]
