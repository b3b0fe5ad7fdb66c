"""`saltray train`: tiles in, a published ensemble of cross-validated models out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.commands.prepare import Prepared, open_for_writing, prepare, share
from saltray.config import Config
from saltray.data.folds import fold_balance
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.ensemble.choice import Choice, choose_postprocess
from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import SearchProvenance, provenance
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.errors import ConfigError, FoldsFailedError, RunLockedError, StorageError
from saltray.progress import (
    CapacityFound,
    DataNote,
    FoldsFinishedBefore,
    FoldsMissing,
    LockTakenOver,
    Observer,
    Published,
    RunPlanned,
    SearchValuesTaken,
    log_event,
)
from saltray.report.examples import draw_examples
from saltray.report.page import FoldRow, RunReport, render_run
from saltray.runs.evaluation import evaluate
from saltray.runs.history import epochs_of, read_history
from saltray.runs.initial_weights import weights_before
from saltray.runs.layout import ERROR, OOF, REPORT, fold_folder, run_folder
from saltray.runs.records import FoldResult, RunManifest
from saltray.runs.run import create_run, fold_result, out_of_fold
from saltray.search.results import with_best_values
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.training.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gave."""

    run: str
    results: tuple[FoldResult, ...]
    """One per fold, in order."""
    score: float
    """Out-of-fold competition score at a probability of 0.5, over all tiles."""
    postprocess: Postprocess
    """How probabilities become masks; chosen on the out-of-fold predictions."""
    score_at_threshold: float
    """The same with `postprocess`; optimistic, as that was chosen on the same predictions."""
    evaluation: Evaluation
    """The cross-fitted score, which is the headline, its interval and its parts, reliability and prices."""
    baseline: float
    """Score of predicting no salt at all on the same tiles."""
    ensemble: str
    """URI of the published version."""
    report: str
    """URI of the run's HTML page."""

    @property
    def threshold(self) -> float:
        """Probability above which a pixel is salt."""
        return self.postprocess.threshold


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
    prepared = prepare(config, store, before=weights_before(store.sub(run_folder(config.run)), RunManifest, config))
    return train_prepared(config, store, prepared, asked, found, observer)


def take_best_values(config: Config, source: str, observer: Observer) -> tuple[Config, SearchProvenance]:
    """`with_best_values`, which the observer is told."""
    config, found = with_best_values(config, source)
    observer(SearchValuesTaken(found.uri, found.trial, found.values))
    return config, found


def check_run(config: Config, store: Store, folds: Collection[int]) -> None:
    """Refuse machines that can never train a fold, unless all of these folds are finished.

    Raises:
        as `preflight`.
    """
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
            tiles=prepared.tiles,
            fold_of=prepared.fold_of,
            dataset=prepared.dataset,
            initial_weights=prepared.initial_digest,
            search_provenance=found,
            weights_provenance=prepared.weights_provenance,
        )
        observer(_planned(config, prepared))
        results = _train_missing(config, home, prepared, asked, lock, observer)
        if missing := set(range(config.folds.count)) - {result.fold for result in results}:
            observer(FoldsMissing(config.run, tuple(sorted(missing))))
            return PartialResult(run=config.run, results=tuple(results), missing=tuple(sorted(missing)))
        return _publish(config, store, prepared, results, manifest.search_provenance, observer)


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
    split = fold_balance(tiles.masks, prepared.fold_of, config.folds.count)
    largest = len(tiles) - min(row.tiles for row in split)
    return RunPlanned(
        run=config.run,
        tiles=len(tiles),
        height=tiles.height,
        width=tiles.width,
        input_size=settings.input_size,
        resize=settings.resize,
        epochs=settings.epochs,
        steps=-(-largest // settings.batch_size),
        batch_size=settings.batch_size,
        ranks=config.cluster.workers_per_fold,
        split=split,
    )


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
    with ray_cluster() as where:
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
            )
        )
        template = share(prepared, config, home)
        jobs = [replace(template, name=fold_folder(fold), folds=(fold,)) for fold in missing]
        outcomes = train_folds(jobs, capacity, lock.check, observer)
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


def _publish(
    config: Config,
    store: Store,
    prepared: Prepared,
    results: list[FoldResult],
    found: SearchProvenance | None,
    observer: Observer,
) -> TrainResult:
    """Out-of-fold predictions, post-processing, ensemble, report."""
    home, tiles, fold_of = store.sub(run_folder(config.run)), prepared.tiles, prepared.fold_of
    probabilities = out_of_fold(home, results, tiles)
    rows = [row.tobytes() for row in probabilities]
    home.put_table(OOF, pa.table({"id": list(tiles.ids), "fold": fold_of, "probability": rows}))
    choice = choose_postprocess(probabilities, tiles, fold_of)
    evaluation = evaluate(choice, probabilities, tiles, fold_of, results, config)
    score = float(choice.plain.mean() / 10)
    baseline = float((~tiles.masks.any(axis=(1, 2))).mean())
    manifest = publish(
        store,
        config=config,
        models=[
            FoldModel(
                fold=result.fold,
                snapshot=model.cycle,
                key=f"{run_folder(config.run)}/{fold_folder(result.fold)}/{model.key}",
                sha256=model.sha256,
                score=model.score,
            )
            for result in results
            for model in result.models
        ],
        postprocess=choice.postprocess,
        score=score,
        score_at_threshold=choice.score,
        baseline=baseline,
        evaluation=evaluation,
        dataset=prepared.dataset,
        search_provenance=found,
        weights_provenance=prepared.weights_provenance,
    )
    result = TrainResult(
        run=config.run,
        results=tuple(results),
        score=score,
        postprocess=choice.postprocess,
        score_at_threshold=choice.score,
        evaluation=evaluation,
        baseline=baseline,
        ensemble=f"{store.uri}/{version_prefix(manifest.name, manifest.version)}",
        report=f"{home.uri}/{REPORT}",
    )
    observer(Published(result.ensemble))
    home.put(REPORT, _report(config, home, prepared, probabilities, result, choice).encode())
    return result


def _report(
    config: Config,
    home: Store,
    prepared: Prepared,
    probabilities: NDArray[np.float16],
    result: TrainResult,
    choice: Choice,
) -> str:
    tiles = prepared.tiles
    rows = [
        FoldRow(
            fold=row.fold,
            score=row.score,
            cross_fitted=cross_fitted.score,
            iou=row.iou,
            dice=row.dice,
            epochs=row.epochs,
            seconds=row.seconds,
        )
        for row, cross_fitted in zip(result.results, result.evaluation.folds, strict=True)
    ]
    report = RunReport(
        run=config.run,
        folds=rows,
        balance=fold_balance(tiles.masks, prepared.fold_of, config.folds.count),
        history={row.fold: epochs_of(read_history(home.sub(fold_folder(row.fold)))) for row in rows},
        threshold_curve=choice.curve,
        threshold=result.threshold,
        postprocess=str(result.postprocess),
        baseline=result.baseline,
        score=result.score,
        score_at_threshold=result.score_at_threshold,
        evaluation=result.evaluation,
        examples=draw_examples(
            tiles, result.postprocess.apply(probabilities, tiles.images), prepared.fold_of, str(result.postprocess)
        ),
        ensemble=result.ensemble,
        config=config,
        versions=provenance(),
    )
    return render_run(report)
