"""A trial: a function in a process of Ray Tune's that starts a Ray Train job and waits for it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from saltray.distributed.admission import Demand
from saltray.distributed.jobs import Job, Stopped, Tried
from saltray.distributed.objective import OBJECTIVE, best_epoch, objective
from saltray.distributed.runtime import settle
from saltray.distributed.search.records import Trial
from saltray.distributed.search.space import apply
from saltray.distributed.trainers import fit, reason
from saltray.distributed.worker import try_out

STATUS = "status"
"""Key of a trial's last report, which says how it ended; a trial that was stopped has none."""
REASON = "reason"


@dataclass(frozen=True)
class Draft:
    """All that trials have in common."""

    job: Job
    """The job of a trial but for its name, and with the search's own configuration."""
    demand: Demand
    """What a trial takes."""

    def job_of(self, trial: Trial) -> Job:
        """The job that tries the trial's values."""
        return dataclasses.replace(self.job, name=trial.name, config=apply(self.job.config, trial.values))


def run_trial(parameters: Mapping[str, Any], draft: Draft) -> None:
    """Ray Tune calls this in a process of its own; each epoch reaches Tune through Ray Train's controller.

    A trial that goes wrong ends well for Tune, with a report that says so: only a process that dies is Tune's to retry.

    Args:
        parameters: `index` and `values` of the trial.
        draft: the rest.
    """
    settle()
    job = draft.job_of(Trial(**parameters))
    try:
        callback = TuneReportCallback()  # type: ignore[no-untyped-call]
        ended = fit(try_out, job, draft.demand, callbacks=[callback])
    except Exception as error:  # whatever Ray raises ends this trial alone
        tune.report({OBJECTIVE: 0.0, STATUS: "failed", REASON: reason(job, error)})
        return
    match ended:
        case Tried(epochs=epochs):
            tune.report({OBJECTIVE: objective(best_epoch(epochs)), STATUS: "finished", "epochs": epochs})
        case Stopped(reason=text, diverged=diverged):
            tune.report({OBJECTIVE: 0.0, STATUS: "diverged" if diverged else "failed", REASON: text})
        case other:
            text = f"rank 0 returned {other!r} in place of a result; please report this"
            tune.report({OBJECTIVE: 0.0, STATUS: "failed", REASON: text})
