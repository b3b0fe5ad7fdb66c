"""`saltray train`: tiles in, a published ensemble of cross-validated models out."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.table import Table

from saltray.config import Config, to_dict
from saltray.data.folds import assign_folds, fold_balance
from saltray.data.packing import load_tiles
from saltray.data.tiles import Tiles
from saltray.distributed.console import console
from saltray.distributed.history import read_history
from saltray.distributed.room import check_folder, find_room
from saltray.distributed.run_records import OOF, TrainResult, begin, finished, initial_weights, out_of_fold
from saltray.distributed.runtime import ray_cluster
from saltray.distributed.search.origin import with_best
from saltray.ensemble.manifest import FoldResult, provenance
from saltray.ensemble.publishing import publish
from saltray.ensemble.threshold import Choice, choose_threshold
from saltray.errors import FoldsFailedError, RunLockedError
from saltray.report.demo import draw_examples
from saltray.report.page import render_run
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.names import open_store
from saltray.training.metrics import score_at_thresholds


def train(config: Config, *, lr_from: str | None = None) -> TrainResult:
    """Train every fold that is not finished, publish the ensemble, and say how good it is.

    The same call again goes on where an interrupted one stopped: finished folds are kept, the others resume from their
    last checkpoint.

    Args:
        config: data, store and recipe.
        lr_from: searches/NAME: take the values that this search found best in place of the configuration's, and write
            into the manifests where they come from.

    Raises:
        DataError: the tiles cannot be used; all faults at once.
        ConfigError: the run exists with other settings or tiles.
        RunLockedError: another live process trains this run.
        ResourceError: the cluster can never hold one fold.
        FoldsFailedError: some folds failed; the others are finished and kept.
        StorageError: the store cannot be reached or written.
    """
    check_folder(config.store)
    store = open_store(config.store)
    store.check_writable()
    origin = None
    if lr_from is not None:
        config, origin = with_best(config, lr_from)
        values = ", ".join(f"{field} {value}" for field, value in origin["values"].items())
        console.print(f"from {origin['uri']}, {origin['trial']}: {values}")
    tiles, dataset = load_tiles(config.data, store)
    assert tiles.masks is not None
    fold_of = assign_folds(tiles.ids, tiles.masks, config.folds)
    initial = initial_weights(config) if config.model.weights else None
    run = store.sub(f"runs/{config.run}")
    with RunLock(run, f"run {config.run}") as lock:
        if lock.taken_from is not None:
            console.print(f"took over the lock of {lock.taken_from}, which is gone")
        begin(run, config, dataset, tiles, fold_of, initial, origin)
        _print_plan(config, tiles, fold_of)
        results = _train_missing(config, run, tiles, fold_of, initial, lock)
        return _conclude(config, store, tiles, fold_of, results, dataset)


def _train_missing(
    config: Config,
    run: Store,
    tiles: Tiles,
    fold_of: NDArray[np.int64],
    initial: dict[str, Any] | None,
    lock: RunLock,
) -> list[FoldResult]:
    """Results of all folds; those that the store has are not trained again."""
    done = {fold: result for fold in range(config.folds.count) if (result := finished(run, fold)) is not None}
    missing = [fold for fold in range(config.folds.count) if fold not in done]
    if done:
        console.print(f"finished before: fold {', '.join(map(str, done))}")
    if not missing:
        return list(done.values())
    with ray_cluster() as where:
        import ray

        from saltray.distributed.folds import fit_folds
        from saltray.distributed.jobs import Job

        room = find_room(config.cluster, run, jobs=len(missing), sharing=config.folds.count)
        waiting = f", {len(missing) - room.at_once} wait in line" if room.at_once < len(missing) else ""
        console.print(
            f"on {where}: a fold takes {room.demand}; {room.at_once} of {len(missing)} folds at once{waiting}"
        )
        if room.now < room.at_once:
            console.print(f"there is room for {room.now} now; the cluster takes some minutes to grow")
        shared = ray.put(tiles)
        weights = None if initial is None else ray.put(initial)
        jobs = [Job(config, f"fold-{fold}", (fold,), shared, fold_of, run, weights) for fold in missing]
        outcomes = fit_folds(jobs, room.demand, room.at_once, lambda: _still_ours(lock))
    failures = {outcome.fold: outcome.failure for outcome in outcomes if outcome.failure is not None}
    if failures:
        for fold, reason in sorted(failures.items()):
            console.print(f"fold {fold} failed: {reason}", style="red")
        numbers = ", ".join(map(str, sorted(failures)))
        if all(outcome.again for outcome in outcomes):
            remedy = "mend the cause and give the same command again to train only these"
        else:
            remedy = "as these settings would fail again, change them and choose another --run"
        raise FoldsFailedError(
            f"{len(failures)} of {config.folds.count} folds failed ({numbers}); the others are finished and kept: "
            f"{remedy}",
            failures,
        )
    done |= {outcome.fold: outcome.result for outcome in outcomes if outcome.result is not None}
    return [done[fold] for fold in sorted(done)]


def _still_ours(lock: RunLock) -> None:
    if lock.lost.is_set():
        raise RunLockedError(
            f"{lock.what} was taken over by another process while this one was stalled; it goes on there"
        )


def _print_plan(config: Config, tiles: Tiles, fold_of: NDArray[np.int64]) -> None:
    """Every derived number, once."""
    assert tiles.masks is not None
    train, ranks = config.train, config.cluster.workers_per_fold
    largest = len(tiles) - min(np.bincount(fold_of, minlength=config.folds.count))
    steps = -(-largest // train.batch_size)
    console.print(
        f"run {config.run}: {len(tiles)} tiles of {tiles.height}x{tiles.width}, padded to {train.input_size}; "
        f"{train.epochs} epochs of up to {steps} steps of {train.batch_size} tiles ({train.batch_size // ranks} a rank)"
    )
    table = Table("fold", "tiles", "empty", "coverage", title="split", title_justify="left")
    for row in fold_balance(tiles.masks, fold_of, config.folds.count):
        table.add_row(str(row["fold"]), str(row["tiles"]), f"{row['empty_share']:.1%}", f"{row['coverage']:.1%}")
    console.print(table)


def _conclude(
    config: Config,
    store: Store,
    tiles: Tiles,
    fold_of: NDArray[np.int64],
    results: list[FoldResult],
    dataset: dict[str, Any],
) -> TrainResult:
    """Out-of-fold predictions, threshold, ensemble, report, table."""
    assert tiles.masks is not None
    run = store.sub(f"runs/{config.run}")
    probabilities = out_of_fold(run, results, tiles)
    rows = [row.tobytes() for row in probabilities]
    run.put_table(OOF, pa.table({"id": list(tiles.ids), "fold": fold_of, "probability": rows}))
    choice = choose_threshold(probabilities, tiles.masks)
    score = float(score_at_thresholds(probabilities, tiles.masks, (0.5,))[0])
    floor = float((~tiles.masks.any(axis=(1, 2))).mean())
    at_threshold = {
        result.fold: float(
            score_at_thresholds(
                probabilities[fold_of == result.fold], tiles.masks[fold_of == result.fold], (choice.threshold,)
            )[0]
        )
        for result in results
    }
    manifest = publish(
        store,
        config=config,
        results=results,
        choice=choice,
        score=score,
        floor=floor,
        dataset=dataset,
        origin=run.get_json("manifest.json")["origin"],
    )
    result = TrainResult(
        run=config.run,
        results=tuple(results),
        score=score,
        threshold=choice.threshold,
        score_at_threshold=choice.score,
        floor=floor,
        ensemble=f"{store.uri}/ensembles/{manifest.name}/{manifest.version}",
        report=f"{run.uri}/report.html",
    )
    run.put("report.html", _report(config, run, tiles, fold_of, probabilities, result, choice, at_threshold).encode())
    _print_result(result, at_threshold)
    return result


def _report(
    config: Config,
    run: Store,
    tiles: Tiles,
    fold_of: NDArray[np.int64],
    probabilities: NDArray[np.float16],
    result: TrainResult,
    choice: Choice,
    at_threshold: dict[int, float],
) -> str:
    assert tiles.masks is not None
    return render_run(
        run=config.run,
        results=[asdict(row) | {"score_at_threshold": at_threshold[row.fold]} for row in result.results],
        balance=fold_balance(tiles.masks, fold_of, config.folds.count),
        history={row.fold: read_history(run.sub(f"fold-{row.fold}")) for row in result.results},
        threshold_curve=(list(choice.thresholds), list(choice.scores)),
        threshold=choice.threshold,
        floor=result.floor,
        score=result.score,
        score_at_threshold=result.score_at_threshold,
        examples=draw_examples(tiles, probabilities, choice.threshold, fold_of),
        ensemble=result.ensemble,
        config=to_dict(config),
        versions=provenance(),
    )


def _print_result(result: TrainResult, at_threshold: dict[int, float]) -> None:
    title = f"run {result.run}: held-out tiles"
    table = Table("fold", "tiles", "score", f"at {result.threshold:.2f}", "IoU", "epochs", "seconds", title=title)
    for row in result.results:
        table.add_row(
            str(row.fold),
            str(row.tiles),
            f"{row.score:.4f}",
            f"{at_threshold[row.fold]:.4f}",
            f"{row.iou:.4f}",
            str(row.epochs),
            f"{row.seconds:.0f}",
        )
    table.add_section()
    tiles = sum(row.tiles for row in result.results)
    table.add_row("all", str(tiles), f"{result.score:.4f}", f"{result.score_at_threshold:.4f}", style="bold")
    console.print(table)
    console.print(f"out-of-fold score {result.score:.4f}; predicting no salt at all would score {result.floor:.4f}")
    console.print(f"threshold {result.threshold:.2f}, chosen on the same predictions: {result.score_at_threshold:.4f}")
    console.print(f"ensemble  {result.ensemble}")
    console.print(f"report    {result.report}")
