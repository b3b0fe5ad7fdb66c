"""`saltray tune`: Ray Tune runs trials, each a Ray Train job on the workers that train the folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.folds import assign_folds
from saltray.data.packing import load_tiles
from saltray.data.tiles import Tiles
from saltray.distributed.console import console
from saltray.distributed.room import check_folder, find_room
from saltray.distributed.run_records import digest_of, initial_weights
from saltray.distributed.runtime import ray_cluster
from saltray.distributed.search.plan import LEARNING_RATES, Plan, Sampler
from saltray.distributed.search.records import Trial, begin, clear_checkpoints, table_of, take_stock, write_results
from saltray.distributed.search.space import Range, Space, apply
from saltray.distributed.search.table import trials_table, values_text
from saltray.errors import SearchFailedError
from saltray.report.search import draw_search
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.names import open_store

PICTURE = "search.png"


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    name: str
    best_config: Config
    """The search's configuration with the best trial's values."""
    best_trial: str
    score: float
    """Best validation score of the best trial."""
    trials: pd.DataFrame
    """One row a trial: trial, status, the searched fields, score, valid_loss, epoch, epochs, seconds, reason."""
    uri: str
    """Where its results are: manifest.json, trials.parquet, best.json, search.png, tensorboard/."""


def tune(
    config: Config,
    *,
    space: Space | None = None,
    trials: int = 16,
    name: str = "s1",
    folds: Sequence[int] = (0,),
    sampler: Sampler = "quasirandom",
    prune: bool = True,
    concurrent: int | None = None,
    seed: int = 0,
) -> SearchResult:
    """Search the fields of `space` for the highest validation score, and keep what was found under `searches/NAME`.

    Each trial trains `config` with other values, on some folds of the split and scored on their held-out tiles; its
    objective is the best score over its epochs. The same call again goes on where an interrupted one stopped, and with
    more trials it goes further.

    Args:
        config: data, store and recipe; train.epochs is a trial's full length.
        space: field -> loguniform(low, high), uniform(low, high) or choice(values); by default optim.lr from 1e-5 to
            1e-2. A space of choices alone is a grid.
        trials: how many sets of values to try at most.
        name: name of the search.
        folds: the folds whose held-out tiles score a trial; of several the mean.
        sampler: quasirandom, or tpe (Optuna's, which learns from the trials so far).
        prune: stop poor trials early, by ASHA (Li et al., 2018): of those that reach a rung, the better third goes on.
        concurrent: trials at once; more than the cluster holds makes an autoscaling one grow. By default as many as it
            holds now.
        seed: seed of the values.

    Raises:
        ConfigError: the space does not fit the configuration, or the search exists with other settings or tiles.
        DataError: the tiles cannot be used; all faults at once.
        RunLockedError: another live process works on this search.
        ResourceError: the cluster can never hold one trial.
        SearchFailedError: no trial came to a score.
        StorageError: the store cannot be reached or written.
    """
    plan = Plan(
        config=config,
        name=name,
        space=LEARNING_RATES if space is None else dict(space),
        trials=trials,
        folds=tuple(folds),
        sampler=sampler,
        prune=prune,
        concurrent=concurrent,
        seed=seed,
    )
    return search(plan)


def search(plan: Plan) -> SearchResult:
    """`tune` of a plan that is checked."""
    config = plan.config
    check_folder(config.store)
    store = open_store(config.store)
    store.check_writable()
    tiles, dataset = load_tiles(config.data, store)
    assert tiles.masks is not None
    fold_of = assign_folds(tiles.ids, tiles.masks, config.folds)
    initial = initial_weights(config) if config.model.weights else None
    part = store.sub(f"searches/{plan.name}")
    with RunLock(part, f"search {plan.name}") as lock:
        if lock.taken_from is not None:
            console.print(f"took over the lock of {lock.taken_from}, which is gone")
        begin(part, plan, dataset, digest_of(initial))
        _print_plan(plan, tiles, fold_of)
        known = take_stock(part, config.train.epochs)
        ended = _run_missing(plan, part, known, tiles, fold_of, initial, lock)
        return _conclude(plan, part, ended)


def _run_missing(
    plan: Plan,
    store: Store,
    known: list[Trial],
    tiles: Tiles,
    fold_of: NDArray[np.int64],
    initial: dict[str, Any] | None,
    lock: RunLock,
) -> list[Trial]:
    """All trials, those that an earlier attempt has ended as they are."""
    undone = [trial for trial in known if trial.status in ("running", "failed")]
    if known:
        console.print(f"begun before: {len(known)} trials, of which {len(known) - len(undone)} are ended and kept")
    count = len(undone) + max(0, plan.trials - len(known))
    if count == 0:
        return known
    with ray_cluster() as where:
        import ray

        from saltray.distributed.jobs import Job
        from saltray.distributed.search.trial import Draft
        from saltray.distributed.search.tuner import run_trials
        from saltray.distributed.search.watch import Watch

        room = find_room(plan.config.cluster, store, jobs=plan.concurrent or count, sharing=1)
        at_once = min(room.at_once, count) if plan.concurrent else min(max(1, room.now), room.at_once)
        console.print(f"on {where}: a trial takes {room.demand}; {at_once} at once")
        weights = None if initial is None else ray.put(initial)
        job = Job(plan.config, "", plan.folds, ray.put(tiles), fold_of, store, weights)
        watch = Watch(plan, store, known, lock)
        try:
            with watch.showing():
                run_trials(plan, Draft(job, room.demand), watch, count, at_once, lock)
        except BaseException:
            # Ctrl-C, or a lost lock: no trial may train on unwatched, also where the caller connected to Ray.
            ray.shutdown()
            raise
        return watch.trials


def _conclude(plan: Plan, store: Store, trials: list[Trial]) -> SearchResult:
    """Table, picture, and the best trial, if there is one."""
    best = max(trials, key=lambda trial: trial.rank)
    losers = [trial for trial in trials if trial.reason is not None]
    for trial in losers:
        console.print(f"{trial.name} {trial.status}: {trial.reason}", style="red")
    if best.best is None:
        store.put_table("trials.parquet", pa.Table.from_pandas(table_of(trials), preserve_index=False))
        raise SearchFailedError(
            f"none of {len(trials)} trials of search {plan.name} came to a score; the first, {trials[0].name}: "
            f"{trials[0].reason}",
            {trial.name: trial.reason or "" for trial in losers},
        )
    clear_checkpoints(store, trials)
    write_results(store, plan, trials, best)
    store.put(PICTURE, draw_search(_drawn(trials), plan.space_text, best.name))
    result = SearchResult(
        name=plan.name,
        best_config=apply(plan.config, best.values),
        best_trial=best.name,
        score=float(best.best["score"]),
        trials=table_of(trials),
        uri=store.uri,
    )
    _print_result(plan, trials, best, result)
    return result


def _drawn(trials: list[Trial]) -> list[dict[str, Any]]:
    return [
        {
            "name": trial.name,
            "status": trial.status,
            "values": dict(trial.values),
            "score": trial.best["score"] if trial.best else None,
            "epochs": [(epoch["epoch"], epoch["score"]) for epoch in trial.epochs],
        }
        for trial in trials
    ]


def _print_plan(plan: Plan, tiles: Tiles, fold_of: NDArray[np.int64]) -> None:
    """Every derived number, once."""
    train = plan.config.train
    held_out = [int((fold_of == fold).sum()) for fold in plan.folds]
    steps = [-(-(len(tiles) - count) // train.batch_size) for count in held_out]
    folds = f"fold{'s' * (len(plan.folds) > 1)} {', '.join(map(str, plan.folds))}"
    console.print(
        f"search {plan.name}: {len(tiles)} tiles, {folds} held out ({', '.join(map(str, held_out))} tiles); "
        f"up to {plan.trials} trials of {train.epochs} epochs of {sum(steps)} steps of {train.batch_size} tiles"
    )
    for field, text in plan.space_text.items():
        console.print(f"  {field} in {text}")
    if plan.rungs:
        rungs = ", ".join(map(str, plan.rungs))
        console.print(f"a trial goes on after epoch {rungs} only if it is among the better third there")


def _print_result(plan: Plan, trials: list[Trial], best: Trial, result: SearchResult) -> None:
    ranked = sorted(trials, key=lambda trial: trial.rank, reverse=True)
    console.print(trials_table(ranked, plan, f"search {plan.name}: best validation score"))
    whole = len(trials) * plan.config.train.epochs
    run = sum(len(trial.epochs) for trial in trials)
    console.print(f"{run} epochs were run, {run / whole:.0%} of the {whole} of all trials to their end")
    console.print(f"best      {best.name}: {values_text(best)}")
    for field, values in plan.space.items():
        if isinstance(values, Range) and (end := values.near_end(best.values[field])):
            console.print(
                f"{field} {best.values[field]:g} lies at the {end} end of {values}; a wider range may be better"
            )
    console.print(f"results   {result.uri} (trials.parquet, best.json, {PICTURE}, tensorboard/)")
    console.print(f"use it    saltray train ... --lr-from searches/{plan.name}")
