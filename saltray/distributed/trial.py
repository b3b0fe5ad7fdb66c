"""A trial of a search: a function in a process of Ray Tune's that runs a job and waits for it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.util.queue import Queue

from saltray.distributed.capacity import JobResources
from saltray.distributed.cluster import set_environment
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.distributed.ray_internals import UserCallback, is_on_loopback
from saltray.distributed.trainer import failure_reason, run_job
from saltray.distributed.worker import train_trial
from saltray.runs.layout import ERROR
from saltray.search.objective import OBJECTIVE, best_epoch, objective
from saltray.search.space import apply_values
from saltray.search.trials import Trial

STATUS = "status"
"""Key of a trial's last report, which says how it ended; a trial that was stopped has none."""
REASON = "reason"
EPOCHS = "epochs"


@dataclass(frozen=True)
class TrialTemplate:
    """All that trials have in common."""

    job: Job
    """The job of a trial but for its name, and with the search's own configuration."""
    resources: JobResources
    """What a trial needs."""

    def job_of(self, trial: Trial) -> Job:
        """The job that tries the trial's values."""
        return replace(self.job, name=trial.name, config=apply_values(self.job.config, trial.values))


class EpochForwarder(UserCallback):
    """Ray Train's callback, in the process of its controller: hands each epoch to the trial's process.

    Ray's own TuneReportCallback lets a second thread report to Tune; where that meets the report that ends the trial,
    each waits for the other for ever.
    """

    def __init__(self, epochs: Queue) -> None:
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: Sequence[Mapping[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Wait until the epoch before was taken."""
        self._epochs.put(metrics[0])


def run_trial(parameters: Mapping[str, Any], template: TrialTemplate) -> None:
    """Ray Tune calls this in a process of its own.

    A trial that fails ends without an error for Tune, by a report that says so: Tune retries only a process that died.

    Args:
        parameters: `index` and `values` of the trial.
        template: the rest.
    """
    set_environment(single_machine=is_on_loopback())
    job = template.job_of(Trial(index=parameters["index"], values=parameters["values"]))
    epochs = Queue(maxsize=1, actor_options={"num_cpus": 0})
    thread = threading.Thread(target=_report_each, args=(epochs,), daemon=True)
    thread.start()
    ended: Any
    try:
        job.home.delete(ERROR)  # of an earlier attempt
        ended = run_job(train_trial, job, template.resources, callbacks=[EpochForwarder(epochs)])
    except Exception as error:  # whatever Ray raises ends this trial alone
        ended = error
    epochs.put(None)
    thread.join()
    tune.report(_last_report(job, ended))


def _report_each(epochs: Queue) -> None:
    while (metrics := epochs.get()) is not None:
        tune.report(metrics)


def _last_report(job: Job, ended: Any) -> dict[str, object]:
    """How the trial ended, for Tune."""
    match ended:
        case TrialHistory(epochs=epochs):
            return {OBJECTIVE: objective(best_epoch(epochs)), STATUS: "finished", EPOCHS: epochs}
        case PermanentFailure(reason=reason, diverged=diverged):
            return {OBJECTIVE: 0.0, STATUS: "diverged" if diverged else "failed", REASON: reason}
        case Exception() as error:
            return {OBJECTIVE: 0.0, STATUS: "failed", REASON: failure_reason(job, error)}
        case other:
            reason = f"rank 0 returned {other!r} instead of a result; please report this"
            return {OBJECTIVE: 0.0, STATUS: "failed", REASON: reason}
