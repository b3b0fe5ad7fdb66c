"""The search as Ray Tune runs it."""

import errno
import logging
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from saltray.distributed.cluster import end_ray_job, wait_for_trainers
from saltray.distributed.nodes import driver_resource
from saltray.distributed.search_callback import SearchCallback
from saltray.distributed.trial import TrialTemplate, run_trial
from saltray.distributed.trial_searcher import NotPickled, TrialSearcher
from saltray.search.objective import OBJECTIVE, best_epoch, objective
from saltray.search.spec import REDUCTION_FACTOR, SearchSpec
from saltray.search.trials import Trial
from saltray.storage.files import no_scratch, scratch_folder
from saltray.storage.lock import RunLock

WORKERS_END_S = 10.0
"""Longest wait for the workers of trials that were stopped."""


def run_trials(
    spec: SearchSpec, template: TrialTemplate, callback: SearchCallback, *, trials: int, concurrency: int, lock: RunLock
) -> None:
    """Run the missing trials, in this thread, so that Ctrl-C ends Ray Tune's own loop.

    Args:
        spec: the search.
        template: what its trials have in common.
        callback: has the trials so far, and gets those to come.
        trials: how many are missing.
        concurrency: how many may run at once.
        lock: of the search; losing it ends the loop.

    Raises:
        RunLockedError: the lock was lost.
        SaltrayError: a trial cannot be written to the store, or whatever the observer raises.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told with its reason
    known, errors = callback.trials, callback.errors
    # A trial only waits for its ranks, which request their CPUs and GPUs themselves: if it held a CPU meanwhile, trials
    # would deadlock. It stays on the driver's node, which is no spot worker.
    trainable = tune.with_resources(tune.with_parameters(run_trial, template=template), {driver_resource(): 0.001})
    # What Tune keeps for itself is for this attempt alone.
    with scratch_folder() as folder:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=TrialSearcher(spec, template.job.parent, known, errors),
                scheduler=make_scheduler(spec, known),
                num_samples=trials,
                max_concurrent_trials=concurrency,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(folder),
                callbacks=[callback],
                failure_config=tune.FailureConfig(max_failures=spec.config.cluster.max_failures),
                stop=_StopEarly(lock, errors),
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # in a notebook Tune's own clears what was printed
            ),
        )
        try:
            _fit(tuner, errors)
            wait_for_trainers(WORKERS_END_S)  # those of a stopped trial may still write a checkpoint
            lock.check()
        except BaseException:  # after Ctrl-C or a lost lock no trial may train unattended
            end_ray_job()
            raise


def _fit(tuner: tune.Tuner, errors: list[Exception]) -> None:
    """Run Ray Tune's loop; the first error of a hook is raised as itself, not as the text that Tune makes of it."""
    try:
        tuner.fit()
    except Exception as error:
        if not errors and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_scratch(error) from error  # of what Ray Tune keeps on the disk
        if not errors:
            raise
    if errors:
        raise errors[0]


def make_scheduler(spec: SearchSpec, known: Iterable[Trial]) -> Any:
    """ASHA, told of the trials so far as if it had seen them run; or none, where nothing is to be stopped."""
    if not spec.rungs:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler: Any = ASHAScheduler(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=spec.config.train.epochs - 1,  # at its last epoch a trial ends by itself
        grace_period=spec.rungs[0],
        reduction_factor=REDUCTION_FACTOR,
        stop_last_trials=False,
    )
    for trial in known:
        if trial.status not in ("finished", "stopped"):
            continue
        past = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(None, past)
        for count, epoch in enumerate(trial.epochs, start=1):
            so_far = objective(best_epoch(trial.epochs[:count]))
            scheduler.on_trial_result(None, past, {"epoch": epoch.epoch, OBJECTIVE: so_far})
        scheduler.on_trial_remove(None, past)
    return scheduler


class _StopEarly(NotPickled, tune.Stopper):
    """Ends the search when another process has taken it over, or when a hook has failed."""

    def __init__(self, lock: RunLock, errors: list[Exception]) -> None:
        self._lock = lock
        self._errors = errors

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._lock.lost.is_set() or bool(self._errors)
