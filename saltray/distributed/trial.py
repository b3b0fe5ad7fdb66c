"""A trial of a search: a function in a process of Ray Tune's that runs a job and waits for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from saltray.distributed.capacity import JobResources
from saltray.distributed.cluster import set_environment
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.distributed.trainer import failure_reason, run_job
from saltray.distributed.worker import train_trial
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


def run_trial(parameters: Mapping[str, Any], template: TrialTemplate) -> None:
    """Ray Tune calls this in a process of its own; each epoch reaches Tune through Ray Train's controller.

    A trial that fails ends without an error for Tune, by a report that says so: Tune retries only a process that died.

    Args:
        parameters: `index` and `values` of the trial.
        template: the rest.
    """
    set_environment()
    job = template.job_of(Trial(index=parameters["index"], values=parameters["values"]))
    try:
        callback = TuneReportCallback()  # type: ignore[no-untyped-call]
        ended = run_job(train_trial, job, template.resources, callbacks=[callback])
    except Exception as error:  # whatever Ray raises ends this trial alone
        tune.report({OBJECTIVE: 0.0, STATUS: "failed", REASON: failure_reason(job, error)})
        return
    match ended:
        case TrialHistory(epochs=epochs):
            tune.report({OBJECTIVE: objective(best_epoch(epochs)), STATUS: "finished", EPOCHS: epochs})
        case PermanentFailure(reason=text, diverged=diverged):
            tune.report({OBJECTIVE: 0.0, STATUS: "diverged" if diverged else "failed", REASON: text})
        case other:
            text = f"rank 0 returned {other!r} instead of a result; please report this"
            tune.report({OBJECTIVE: 0.0, STATUS: "failed", REASON: text})
