"""`saltray train`: tiles in, a published ensemble of cross-validated models out."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.commands.prepare import Prepared, open_for_writing, prepare, share
from saltray.config import Config
from saltray.data.folds import fold_balance
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import SearchProvenance, provenance
from saltray.ensemble.publishing import FoldModel, publish
from saltray.ensemble.threshold import ThresholdChoice, choose_threshold
from saltray.errors import FoldsFailedError, RunLockedError, StorageError
from saltray.progress import (
    CapacityFound,
    DataNote,
    FoldsFinishedBefore,
    LockTakenOver,
    Observer,
    Published,
    RunPlanned,
    SearchValuesTaken,
    log_event,
)
from saltray.report.examples import draw_examples
from saltray.report.page import FoldRow, RunReport, render_run
from saltray.runs.history import epochs_of, read_history
from saltray.runs.initial_weights import weights_before
from saltray.runs.layout import ERROR, OOF, REPORT, WEIGHTS, fold_folder, run_folder
from saltray.runs.records import FoldResult, RunManifest
from saltray.runs.run import create_run, fold_result, out_of_fold
from saltray.search.results import with_best_values
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.training.metrics import score_at_thresholds


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gave."""

    run: str
    results: tuple[FoldResult, ...]
    """One per fold, in order."""
    score: float
    """Out-of-fold competition score at a probability of 0.5, over all tiles."""
    threshold: float
    """Probability chosen on the out-of-fold predictions."""
    score_at_threshold: float
    fold_scores_at_threshold: tuple[float, ...]
    """One per fold, in order."""
    baseline: float
    """Score of predicting no salt at all on the same tiles."""
    ensemble: str
    """URI of the published version."""
    report: str
    """URI of the run's HTML page."""


def train(config: Config, *, from_search: str | None = None, observer: Observer = log_event) -> TrainResult:
    """Train every fold that is not finished, publish the ensemble, and score it.

    The same call again resumes an interrupted run: finished folds are kept, the others resume from their last
    checkpoint.

    Args:
        config: data, store and recipe.
        from_search: searches/NAME: use the values that this search found best in place of the configuration's, and
            record their provenance in the manifests.
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
    store = open_for_writing(config.store)
    found: SearchProvenance | None = None
    if from_search is not None:
        config, found = with_best_values(config, from_search)
        observer(SearchValuesTaken(found.uri, found.trial, found.values))
    home = store.sub(run_folder(config.run))
    check_machines_for_run(config, home)
    prepared = prepare(config, store, before=weights_before(home, RunManifest, config))
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
        results = _train_missing(config, home, prepared, lock, observer)
        return _publish(config, store, prepared, results, manifest.search_provenance, observer)


def check_machines_for_run(config: Config, home: Store) -> None:
    """Refuse machines that can never train a fold, unless all folds are finished.

    Raises:
        as `preflight`.
    """
    folds = config.folds.count
    if any(fold_result(home, fold) is None for fold in range(folds)):
        preflight(config.cluster, jobs=folds, sharing=folds)


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
        epochs=settings.epochs,
        steps=-(-largest // settings.batch_size),
        batch_size=settings.batch_size,
        ranks=config.cluster.workers_per_fold,
        split=split,
    )


def _train_missing(
    config: Config, home: Store, prepared: Prepared, lock: RunLock, observer: Observer
) -> list[FoldResult]:
    """Results of all folds; those that the store has are not trained again."""
    count = config.folds.count
    done = {fold: result for fold in range(count) if (result := fold_result(home, fold)) is not None}
    missing = [fold for fold in range(count) if fold not in done]
    if done:
        observer(FoldsFinishedBefore(tuple(done)))
    for fold in done:  # its controller may have died after its result was written
        home.delete(f"{fold_folder(fold)}/{ERROR}")
    if not missing:
        return list(done.values())
    with ray_cluster() as where:
        from saltray.distributed.fold_jobs import train_folds

        capacity = check_cluster(config.cluster, home, jobs=len(missing), sharing=count, observer=observer)
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
        kept = "; the others are finished and kept" if len(failures) < count else ""
        raise FoldsFailedError(
            f"{len(failures)} of {count} folds failed ({numbers}){kept}: {remedy}",
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
    """Out-of-fold predictions, threshold, ensemble, report."""
    home, tiles, fold_of = store.sub(run_folder(config.run)), prepared.tiles, prepared.fold_of
    probabilities = out_of_fold(home, results, tiles)
    rows = [row.tobytes() for row in probabilities]
    home.put_table(OOF, pa.table({"id": list(tiles.ids), "fold": fold_of, "probability": rows}))
    threshold = choose_threshold(probabilities, tiles.masks)
    score = float(score_at_thresholds(probabilities, tiles.masks, (0.5,))[0])
    baseline = float((~tiles.masks.any(axis=(1, 2))).mean())
    manifest = publish(
        store,
        config=config,
        models=[
            FoldModel(
                fold=result.fold,
                key=f"{run_folder(config.run)}/{fold_folder(result.fold)}/{WEIGHTS}",
                sha256=result.weights_sha256,
                score=result.score,
            )
            for result in results
        ],
        threshold=threshold,
        score=score,
        baseline=baseline,
        dataset=prepared.dataset,
        search_provenance=found,
        weights_provenance=prepared.weights_provenance,
    )
    result = TrainResult(
        run=config.run,
        results=tuple(results),
        score=score,
        threshold=threshold.threshold,
        score_at_threshold=threshold.score,
        fold_scores_at_threshold=tuple(
            _score_of_fold(probabilities, prepared, row.fold, threshold.threshold) for row in results
        ),
        baseline=baseline,
        ensemble=f"{store.uri}/{version_prefix(manifest.name, manifest.version)}",
        report=f"{home.uri}/{REPORT}",
    )
    observer(Published(result.ensemble))
    home.put(REPORT, _report(config, home, prepared, probabilities, result, threshold).encode())
    return result


def _score_of_fold(probabilities: NDArray[np.float16], prepared: Prepared, fold: int, threshold: float) -> float:
    held_out = prepared.fold_of == fold
    return float(score_at_thresholds(probabilities[held_out], prepared.tiles.masks[held_out], (threshold,))[0])


def _report(
    config: Config,
    home: Store,
    prepared: Prepared,
    probabilities: NDArray[np.float16],
    result: TrainResult,
    threshold: ThresholdChoice,
) -> str:
    rows = [
        FoldRow(
            fold=row.fold,
            score=row.score,
            score_at_threshold=at_threshold,
            iou=row.iou,
            dice=row.dice,
            epochs=row.epochs,
            seconds=row.seconds,
        )
        for row, at_threshold in zip(result.results, result.fold_scores_at_threshold, strict=True)
    ]
    report = RunReport(
        run=config.run,
        folds=rows,
        balance=fold_balance(prepared.tiles.masks, prepared.fold_of, config.folds.count),
        history={row.fold: epochs_of(read_history(home.sub(fold_folder(row.fold)))) for row in rows},
        threshold_curve=list(zip(threshold.thresholds, threshold.scores, strict=True)),
        threshold=threshold.threshold,
        baseline=result.baseline,
        score=result.score,
        score_at_threshold=result.score_at_threshold,
        examples=draw_examples(prepared.tiles, probabilities, threshold.threshold, prepared.fold_of),
        ensemble=result.ensemble,
        config=config,
        versions=provenance(),
    )
    return render_run(report)
