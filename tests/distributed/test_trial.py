"""A trial as Ray Tune runs it: its job, and the report that says how it ended."""

from collections.abc import Callable
from typing import Any

import pytest
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from samples import metrics

from saltray.distributed import trial as module
from saltray.distributed.capacity import JobResources
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.distributed.trial import TrialTemplate, run_trial
from saltray.distributed.worker import train_trial
from saltray.runs.history import EpochRecord
from saltray.search.objective import objective
from saltray.search.trials import Trial

RESOURCES = JobResources(2, 0.5, 0)
PARAMETERS = {"index": 7, "values": {"optim.lr": 0.5, "train.batch_size": 8}}
EPOCHS = tuple(EpochRecord(**vars(metrics(number, score)), at=float(number)) for number, score in ((1, 0.6), (2, 0.4)))


@pytest.fixture
def template(make_job: Callable[..., Job]) -> TrialTemplate:
    return TrialTemplate(make_job(0, name="", folds=(0, 1)), RESOURCES)


def test_the_job_of_a_trial_has_its_name_and_values(template: TrialTemplate) -> None:
    job = template.job_of(Trial(**PARAMETERS))
    assert (job.name, job.folds, job.parent) == ("trial-007", (0, 1), template.job.parent)
    assert (job.config.optim.lr, job.config.train.batch_size) == (0.5, 8)
    assert job.config.model == template.job.config.model


@pytest.mark.parametrize(
    ("ended", "report"),
    [
        (TrialHistory(EPOCHS), {"objective": objective(EPOCHS[0]), "status": "finished", "epochs": EPOCHS}),
        (PermanentFailure("NaN", diverged=True), {"objective": 0.0, "status": "diverged", "reason": "NaN"}),
        (PermanentFailure("too small", diverged=False), {"objective": 0.0, "status": "failed", "reason": "too small"}),
        (
            RuntimeError("Traceback\nlost"),
            {"objective": 0.0, "status": "failed", "reason": "lost (full text: {uri}/trial-007/error.txt)"},
        ),
        (
            None,
            {
                "objective": 0.0,
                "status": "failed",
                "reason": "rank 0 returned None instead of a result; please report this",
            },
        ),
    ],
    ids=["finished", "diverged", "refused", "lost", "bug"],
)
def test_the_last_report_says_how_the_trial_ended(
    ended: Any, report: dict[str, Any], template: TrialTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def run_job(train_loop: Any, job: Job, resources: JobResources, callbacks: list[Any]) -> Any:
        started.append((train_loop, job.name, resources, [type(callback) for callback in callbacks]))
        if isinstance(ended, Exception):
            raise ended
        return ended

    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "run_job", run_job)
    monkeypatch.setattr(module, "set_environment", lambda: None)
    monkeypatch.setattr(module, "TuneReportCallback", lambda: object.__new__(TuneReportCallback))
    monkeypatch.setattr(tune, "report", reports.append)
    run_trial(PARAMETERS, template)
    # Each epoch reaches Tune by Ray Train's own callback.
    assert started == [(train_trial, "trial-007", RESOURCES, [TuneReportCallback])]
    expected = {
        key: value.format(uri=template.job.parent.uri) if key == "reason" else value for key, value in report.items()
    }
    assert reports == [expected]
