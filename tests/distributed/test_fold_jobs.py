"""The folds of a run as jobs: how many at once, what the driver tells of them, and how they end."""

from collections.abc import Callable
from typing import Any, Self

import pytest
from ray.train.v2.api.exceptions import ControllerError

from saltray.config import Config
from saltray.distributed import fold_jobs, watcher
from saltray.distributed.capacity import Capacity, JobResources
from saltray.distributed.fold_jobs import FoldOutcome, train_folds
from saltray.distributed.job_pool import JobOutcome
from saltray.distributed.jobs import Job, PermanentFailure
from saltray.errors import RunLockedError, StorageError
from saltray.progress import (
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldNote,
    FoldResumed,
    FoldStarted,
    FoldWaiting,
)
from saltray.runs.history import History
from saltray.runs.records import FoldResult
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

MakeJob = Callable[..., Job]
NOTHING = "nothing ended"


def capacity(concurrency: int) -> Capacity:
    return Capacity(JobResources(1, 1, 0), concurrency, ready=concurrency)


def result_of(fold: int) -> FoldResult:
    return FoldResult(
        fold=fold,
        tiles=3,
        score=0.5,
        iou=0.5,
        dice=0.5,
        epochs=2,
        seconds=7.0,
        started=0.0,
        finished=9.0,
        weights_sha256="a",
        oof_sha256="b",
    )


def epoch(number: int) -> EpochMetrics:
    return EpochMetrics(number, 0.5, 0.1, 1.0, 10.0, score=0.25, iou=0.5, dice=0.5, valid_loss=0.5)


class FakePool:
    """Jobs that end by a script: (fold, how it ends), NOTHING for a look without an end, or a function to call."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.running: dict[int, Job] = {}
        self.most = 0
        self.resources: JobResources | None = None
        self.left_by: type[BaseException] | None = None
        self.short = True

    def __call__(self, resources: JobResources) -> Self:
        self.resources = resources
        return self

    def start(self, train_loop: Any, job: Job) -> None:
        assert train_loop is fold_jobs.train_fold
        self.running[job.folds[0]] = job
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float) -> JobOutcome | None:
        step = self.script.pop(0)
        while callable(step):
            step()
            step = self.script.pop(0)
        if step is NOTHING:
            return None
        fold, value = step
        return JobOutcome(self.running.pop(fold), value)

    def lacks_ranks(self) -> bool:
        return self.short

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.left_by = kind


def train(
    patch: pytest.MonkeyPatch, jobs: list[Job], script: list[Any], *, concurrency: int = 2, check: Any = None
) -> tuple[list[FoldOutcome], list[Event], FakePool]:
    pool = FakePool(script)
    patch.setattr(fold_jobs, "JobPool", pool)
    events: list[Event] = []
    outcomes = train_folds(jobs, capacity(concurrency), check or (lambda: None), events.append)
    return outcomes, events, pool


def test_a_queued_fold_starts_when_another_has_ended(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    script = [(1, result_of(1)), NOTHING, (0, result_of(0)), (2, result_of(2))]
    outcomes, events, pool = train(monkeypatch, [make_job(fold) for fold in range(3)], script)
    assert outcomes == [FoldOutcome(fold, result=result_of(fold)) for fold in (1, 0, 2)]
    assert (pool.most, pool.resources, pool.left_by) == (2, JobResources(1, 1, 0), None)
    assert events == [
        FoldStarted(0),
        FoldStarted(1),
        FoldFinished(fold=1, score=0.5, seconds=7.0, queued=1),
        FoldStarted(2),
        FoldFinished(fold=0, score=0.5, seconds=7.0, queued=0),
        FoldFinished(fold=2, score=0.5, seconds=7.0, queued=0),
    ]


@pytest.mark.parametrize(
    ("value", "failure", "retryable", "kept"),
    [
        (
            PermanentFailure("the loss became NaN", diverged=True),
            "the loss became NaN",
            False,
            b"the loss became NaN\n",
        ),
        (RuntimeError("first\nlast"), "last (full text: {home}/error.txt)", True, b"first\nlast\n"),
        (None, "rank 0 returned None instead of a result; please report this", True, None),
    ],
    ids=["permanent", "lost", "bug"],
)
def test_a_failure_leaves_the_other_folds_running(
    value: Any, failure: str, retryable: bool, kept: bytes | None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make_job(0), make_job(1)]
    failure = failure.format(home=jobs[0].home.uri)
    outcomes, events, _ = train(monkeypatch, jobs, [(0, value), (1, result_of(1))])
    assert outcomes[0] == FoldOutcome(0, failure=failure, retryable=retryable)
    assert outcomes[1].result == result_of(1)
    assert events[2] == FoldFailed(fold=0, reason=failure, queued=0)
    assert (jobs[0].home.get("error.txt") if jobs[0].home.exists("error.txt") else None) == kept


def test_no_fold_is_started_after_one_that_the_store_refused(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = StorageError("/store: No space left on device; free some space there")
    jobs = [make_job(fold) for fold in range(4)]
    outcomes, events, _ = train(monkeypatch, jobs, [(0, ControllerError(full)), (1, result_of(1))])
    assert [(outcome.fold, outcome.fault) for outcome in outcomes] == [(0, full), (1, None)]
    assert outcomes[0].failure == f"{full} (full text: {jobs[0].home.uri}/error.txt)"
    assert [event.fold for event in events if isinstance(event, FoldStarted)] == [0, 1]


def test_the_error_of_an_earlier_attempt_is_deleted_first(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(0)
    job.home.put("error.txt", b"earlier")
    seen: list[bool] = []
    train(monkeypatch, [job], [lambda: seen.append(job.home.exists("error.txt")), (0, result_of(0))])
    assert seen == [False]


def test_a_lost_lock_ends_the_folds(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool([NOTHING])
    monkeypatch.setattr(fold_jobs, "JobPool", pool)

    def check() -> None:
        raise RunLockedError("run r1 was taken over")

    with pytest.raises(RunLockedError):
        train_folds([make_job(0)], capacity(1), check, lambda event: None)
    assert pool.left_by is RunLockedError


def test_records_are_told_once_and_in_order(
    make_job: MakeJob, small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(3, config=small("tiles", "store", epochs=7))
    with History(job.home) as earlier:
        earlier.append(epoch(1))
        earlier.append(epoch(2))  # after the checkpoint of epoch 1
    kept = earlier.records[:1]
    history = History(job.home, kept)

    def resume() -> None:
        history.note("runs on 10.0.0.1")
        history.resume(1)
        history.append(epoch(2))
        with history:
            pass

    def more() -> None:
        with History(job.home, history.records) as again:
            again.append(epoch(3))

    _, events, _ = train(monkeypatch, [job], [resume, NOTHING, NOTHING, more, (3, result_of(3))])
    told = [
        FoldEpoch(fold=3, epoch=number, epochs=7, loss=0.5, score=0.25, images_per_second=10.0) for number in (2, 3)
    ]
    assert events == [
        FoldStarted(3),
        FoldNote(3, "runs on 10.0.0.1"),
        FoldResumed(3, 1),
        told[0],
        told[1],
        FoldFinished(fold=3, score=0.5, seconds=7.0, queued=0),
    ]


def test_a_fold_without_resources_says_that_it_waits(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "WAITING_S", 0.0)
    job = make_job(3)

    def begin() -> None:
        with History(job.home) as history:
            history.note("runs on 10.0.0.1")
        pool.short = False

    def lose_a_node() -> None:
        pool.short = True

    pool = FakePool([NOTHING, begin, NOTHING, NOTHING, lose_a_node, NOTHING, (3, result_of(3))])
    monkeypatch.setattr(fold_jobs, "JobPool", pool)
    events: list[Event] = []
    train_folds([job], capacity(1), lambda: None, events.append)
    kinds = [type(event) for event in events]
    assert kinds == [FoldStarted, FoldWaiting, FoldNote, FoldWaiting, FoldFinished]
    assert str(events[1]).startswith("fold 3  has waited 0 min for its nodes; `ray status` ")


def test_a_store_that_is_away_for_a_moment_does_not_stop_the_folds(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(3)
    read = watcher.read_history

    def away(home: Store) -> Any:
        raise StorageError("the store is away")

    def leave() -> None:
        monkeypatch.setattr(watcher, "read_history", away)

    def come_back() -> None:
        with History(job.home) as history:
            history.append(epoch(1))
        monkeypatch.setattr(watcher, "read_history", read)

    _, events, _ = train(monkeypatch, [job], [leave, NOTHING, come_back, (3, result_of(3))])
    assert [type(event) for event in events] == [FoldStarted, FoldEpoch, FoldFinished]


def test_the_last_records_are_told_also_when_the_store_is_away_as_the_fold_ends(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 0.0)
    job = make_job(3)
    read, answers = watcher.read_history, [StorageError("the store is away"), None]

    def away_once(home: Store) -> Any:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return read(home)

    def last_epoch() -> None:
        with History(job.home) as history:
            history.append(epoch(2))
        monkeypatch.setattr(watcher, "read_history", away_once)

    _, events, _ = train(monkeypatch, [job], [last_epoch, (3, result_of(3))])
    assert [type(event) for event in events] == [FoldStarted, FoldEpoch, FoldFinished]
    assert answers == []


def test_a_store_that_is_away_at_the_start_is_told_before_a_fold_starts(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of an earlier attempt would be told again otherwise."""

    def away(home: Store) -> Any:
        raise StorageError("the store is away")

    monkeypatch.setattr(watcher, "read_history", away)
    monkeypatch.setattr(fold_jobs, "JobPool", lambda resources: pytest.fail("a fold starts"))
    with pytest.raises(StorageError, match="the store is away"):
        train_folds([make_job(3)], capacity(1), lambda: None, lambda event: None)


def test_a_history_that_cannot_be_read_is_replaced(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(3)
    job.home.put("history.jsonl", b"junk")

    def begin() -> None:
        with History(job.home) as history:
            history.append(epoch(1))

    _, events, _ = train(monkeypatch, [job], [NOTHING, begin, (3, result_of(3))])
    assert [type(event) for event in events] == [FoldStarted, FoldEpoch, FoldFinished]


def test_an_observer_that_raises_ends_the_folds_with_its_own_exception(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool([])
    monkeypatch.setattr(fold_jobs, "JobPool", pool)

    def observer(event: Event) -> None:
        raise BrokenPipeError("the terminal is closed")

    with pytest.raises(BrokenPipeError, match="the terminal is closed"):
        train_folds([make_job(0)], capacity(1), lambda: None, observer)
    assert pool.left_by is BrokenPipeError
