"""A trial as Ray Tune runs it: its job, and the report that says how it ended."""

import queue
import time
from collections.abc import Callable
from typing import Any

import pytest
from ray import tune
from samples import metrics

from saltray.distributed import trial as module
from saltray.distributed.capacity import JobResources
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.distributed.ray_internals import UserCallback
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


class FakeQueue(queue.Queue[Any]):
    """A queue within this process."""

    def __init__(self, maxsize: int, actor_options: dict[str, Any]) -> None:
        assert actor_options == {"num_cpus": 0}
        super().__init__(maxsize)


class FakeTune:
    """Runs a job that reports two epochs, and takes the reports to Tune."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ended: Any = TrialHistory(EPOCHS)
        self.started: list[Any] = []
        self.reports: list[dict[str, Any]] = []
        self.slow = False
        self.on_loopback = True
        self.single_machine: bool | None = None
        self.most_at_once = 0
        self._reporting = 0
        patch.setattr(module, "run_job", self.run_job)
        patch.setattr(module, "set_environment", self.set_environment)
        patch.setattr(module, "is_on_loopback", lambda: self.on_loopback)
        patch.setattr(module, "Queue", FakeQueue)
        patch.setattr(tune, "report", self.report)

    def set_environment(self, *, single_machine: bool) -> None:
        self.single_machine = single_machine

    def run_job(self, train_loop: Any, job: Job, resources: JobResources, callbacks: list[UserCallback]) -> Any:
        self.started.append((train_loop, job.name, resources))
        for epoch in (1, 2):
            ranks = [{"epoch": epoch}, {"epoch": epoch, "rank": 1}]
            callbacks[0].after_report(run_context=None, metrics=ranks, checkpoint=None)  # type: ignore[arg-type]
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended

    def report(self, metrics: dict[str, Any]) -> None:
        self._reporting += 1
        self.most_at_once = max(self.most_at_once, self._reporting)
        time.sleep(0.05 if self.slow else 0)
        self.reports.append(metrics)
        self._reporting -= 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTune:
    return FakeTune(monkeypatch)


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
    ended: Any, report: dict[str, Any], fake: FakeTune, template: TrialTemplate
) -> None:
    fake.ended = ended
    run_trial(PARAMETERS, template)
    assert fake.started == [(train_trial, "trial-007", RESOURCES)]
    *epochs, last = fake.reports
    assert epochs == [{"epoch": 1}, {"epoch": 2}]  # of rank 0, and all of them before the end
    reason = {"reason": report["reason"].format(uri=template.job.parent.uri)} if "reason" in report else {}
    assert last == report | reason


def test_the_reason_of_an_earlier_failure_does_not_stay(fake: FakeTune, template: TrialTemplate) -> None:
    fake.ended = RuntimeError("lost")
    run_trial(PARAMETERS, template)
    home = template.job.parent.sub("trial-007")
    assert home.exists("error.txt")
    fake.ended = TrialHistory(EPOCHS)
    run_trial(PARAMETERS, template)
    assert not home.exists("error.txt")


def test_no_two_threads_report_at_once(fake: FakeTune, template: TrialTemplate) -> None:
    fake.slow = True
    run_trial(PARAMETERS, template)
    assert fake.most_at_once == 1
    assert len(fake.reports) == 3


@pytest.mark.parametrize("on_loopback", [True, False])
def test_ranks_on_other_machines_are_reached(on_loopback: bool, fake: FakeTune, template: TrialTemplate) -> None:
    """No variable says so in a worker: a Ray job's driver alone has RAY_ADDRESS."""
    fake.on_loopback = on_loopback
    run_trial(PARAMETERS, template)
    assert fake.single_machine is on_loopback
