"""A pretraining as a job: what the driver tells of it, and how it ends."""

from collections.abc import Callable
from typing import Any, Self

import pytest
from samples import DIGEST, metrics

from saltray.config import PretrainConfig
from saltray.distributed import pretrain_job, watcher
from saltray.distributed.capacity import Capacity, JobResources
from saltray.distributed.job_pool import JobOutcome
from saltray.distributed.jobs import Job, PermanentFailure
from saltray.distributed.pretrain_job import run_pretraining
from saltray.distributed.worker import PretrainLoop
from saltray.errors import RunLockedError, StorageError, TrainingError
from saltray.progress import Event, PretrainEpoch, PretrainNote, PretrainResumed, PretrainWaiting
from saltray.runs.history import History
from saltray.runs.records import PretrainRecord

RESULT = PretrainRecord(loss=0.5, epochs=2, seconds=7.0, weights_sha256=DIGEST)
SETTINGS = PretrainConfig(name="p7", patch=9)


class FakePool:
    """One job that ends with `value`, after as many looks as there are steps to call."""

    def __init__(self, value: object, *steps: Callable[[], None]) -> None:
        self.value = value
        self.steps = list(steps)

    def __call__(self, resources: JobResources) -> Self:
        assert resources == JobResources(2, 1, 0)
        return self

    def start(self, train_loop: object, job: Job) -> None:
        assert train_loop == PretrainLoop(SETTINGS)
        self.job = job

    def wait(self, seconds: float) -> JobOutcome | None:
        if not self.steps:
            return JobOutcome(self.job, self.value)
        self.steps.pop(0)()
        return None

    def lacks_ranks(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(0, name="p7")


def run(patch: pytest.MonkeyPatch, job: Job, pool: FakePool, check: Any = None) -> tuple[PretrainRecord, list[Event]]:
    patch.setattr(pretrain_job, "JobPool", pool)
    events: list[Event] = []
    capacity = Capacity(JobResources(2, 1, 0), 1, ready=1)
    return run_pretraining(job, SETTINGS, capacity, check or (lambda: None), events.append), events


def test_what_its_records_say_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.home.put("error.txt", b"of an earlier attempt")

    def begin() -> None:
        assert not job.home.exists("error.txt")
        monkeypatch.setattr(watcher, "WAITING_S", 300.0)
        with History(job.home) as history:
            history.note("runs on 10.0.0.1")
            history.resume(1)
            history.append(metrics(2, None))

    monkeypatch.setattr(watcher, "WAITING_S", -1.0)
    result, events = run(monkeypatch, job, FakePool(RESULT, lambda: None, begin))
    assert result == RESULT
    assert [type(event) for event in events] == [PretrainWaiting, PretrainNote, PretrainResumed, PretrainEpoch]
    assert events[1:] == [
        PretrainNote("runs on 10.0.0.1"),
        PretrainResumed(1),
        PretrainEpoch(epoch=2, epochs=2, loss=1.0, images_per_second=812.3),
    ]


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (
            PermanentFailure("the loss is NaN", diverged=True),
            TrainingError,
            "^pretraining p7 failed: the loss is NaN; as these settings would fail again, .* another --pretrain.name$",
        ),
        (RuntimeError("first\nlast"), TrainingError, r"p7 failed: last \(full text: .*/p7/error.txt\); fix the cause"),
        (
            StorageError("the disk is full"),
            StorageError,
            "^the disk is full; the same command resumes the pretraining$",
        ),
        (RunLockedError("it was taken over"), RunLockedError, "^it was taken over$"),
        (None, TrainingError, "rank 0 returned None instead of a result; please report this"),
    ],
    ids=["permanent", "lost", "store", "lock", "bug"],
)
def test_a_failure_says_what_to_do(
    value: object, kind: type[Exception], told: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind, match=told):
        run(monkeypatch, job, FakePool(value))
    assert job.home.exists("error.txt") == (value is not None)


def test_a_lost_lock_ends_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RunLockedError("taken over")

    with pytest.raises(RunLockedError, match="taken over"):
        run(monkeypatch, job, FakePool(RESULT, lambda: None), lost)
