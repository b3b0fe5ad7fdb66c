"""The search as Ray Tune runs it."""

import logging
import tempfile
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from saltray.distributed.objective import OBJECTIVE, best_epoch, objective
from saltray.distributed.runtime import driver_node, wait_for_trainers
from saltray.distributed.search.plan import REDUCTION, Plan
from saltray.distributed.search.proposals import Proposals
from saltray.distributed.search.records import Trial
from saltray.distributed.search.transient import Transient
from saltray.distributed.search.trial import Draft, run_trial
from saltray.distributed.search.watch import Watch
from saltray.errors import RunLockedError
from saltray.storage.lock import RunLock

END_S = 10.0
"""Longest wait for the workers of trials that were stopped."""


def run_trials(plan: Plan, draft: Draft, watch: Watch, count: int, at_once: int, lock: RunLock) -> None:
    """Run the trials that are missing, in this thread, so that Ctrl-C ends Ray Tune's own loop.

    Args:
        plan: the search.
        draft: what its trials have in common.
        watch: knows the trials so far, and those to come.
        count: how many trials are missing.
        at_once: how many may run at a time.
        lock: of the search; losing it ends the loop.

    Raises:
        RunLockedError: the lock was lost.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that goes wrong is in the table, with its reason
    known = watch.trials
    # A trial only waits for its ranks, which ask for their CPUs and GPUs themselves: were it to hold a CPU meanwhile,
    # trials would wait for each other for ever. It stays on the driver's machine, which is no spot worker.
    trial = tune.with_resources(tune.with_parameters(run_trial, draft=draft), {driver_node(): 0.001})
    # What Tune keeps for itself is for this attempt alone.
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        tuner = tune.Tuner(
            trial,
            tune_config=tune.TuneConfig(
                search_alg=Proposals(plan, draft.job.run, known),
                scheduler=scheduler_of(plan, known),
                num_samples=count,
                max_concurrent_trials=at_once,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                callbacks=[watch],
                failure_config=tune.FailureConfig(max_failures=plan.config.cluster.max_failures),
                stop=_LockLost(lock),
                verbose=0,
            ),
        )
        tuner.fit()
    wait_for_trainers(END_S)  # those of a trial that was stopped may still write a checkpoint
    if lock.lost.is_set():
        raise RunLockedError(
            f"{lock.what} was taken over by another process while this one was stalled; it goes on there"
        )


def scheduler_of(plan: Plan, known: Iterable[Trial]) -> Any:
    """ASHA, which knows the trials so far as if it had seen them run; or none, where nothing is to be stopped."""
    if not plan.rungs:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler: Any = ASHAScheduler(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=plan.config.train.epochs - 1,  # at its last epoch a trial ends by itself
        grace_period=plan.rungs[0],
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )
    for trial in known:
        if trial.status not in ("finished", "stopped"):
            continue
        past = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(None, past)
        for at, epoch in enumerate(trial.epochs, start=1):
            so_far = objective(best_epoch(trial.epochs[:at]))
            scheduler.on_trial_result(None, past, {"epoch": epoch["epoch"], OBJECTIVE: so_far})
        scheduler.on_trial_remove(None, past)
    return scheduler


class _LockLost(Transient, tune.Stopper):
    """Ends the search when another process has taken it over."""

    def __init__(self, lock: RunLock) -> None:
        self._lock = lock

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._lock.lost.is_set()
