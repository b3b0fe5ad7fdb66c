"""The folds of a run as jobs: as many run as the cluster holds, the others are queued; one thread watches them all."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from saltray.distributed.capacity import Capacity
from saltray.distributed.job_pool import JobOutcome, JobPool
from saltray.distributed.jobs import Job, PermanentFailure
from saltray.distributed.trainer import failure_reason, store_fault, write_error
from saltray.distributed.watcher import LAST_POLLS, POLL_S, Watcher
from saltray.distributed.worker import train_fold
from saltray.errors import RunLockedError, StorageError
from saltray.progress import (
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldNote,
    FoldResumed,
    FoldStarted,
    FoldWaiting,
    Observer,
)
from saltray.runs.history import EpochRecord, NoteRecord, Record, ResumeRecord
from saltray.runs.layout import ERROR
from saltray.runs.records import FoldResult


@dataclass(frozen=True)
class FoldOutcome:
    """How one fold ended: a result, or the reason for having none."""

    fold: int
    result: FoldResult | None = None
    failure: str | None = None
    retryable: bool = True
    """Whether a retry with the same settings may succeed."""
    fault: StorageError | RunLockedError | None = None
    """What is wrong with the store, where that was the reason; the other folds would meet it too."""


def train_folds(
    jobs: list[Job], capacity: Capacity, check_lock: Callable[[], None], observer: Observer
) -> list[FoldOutcome]:
    """Train the folds; one that fails leaves the others running, but no more are started if it was the store's fault.

    Args:
        jobs: one per fold.
        capacity: how many run at once.
        check_lock: raises when the run's lock was lost.
        observer: receives each start, epoch and end.

    Raises:
        StorageError: the store cannot be reached before the first fold starts.
    """
    for job in jobs:
        job.home.delete(ERROR)  # of an earlier attempt
    watchers = {
        job.name: Watcher(job, observer, partial(_event, job), partial(FoldWaiting, job.folds[0])) for job in jobs
    }
    queued = deque(jobs)
    running: dict[str, Watcher] = {}
    outcomes: list[FoldOutcome] = []
    with JobPool(capacity.resources) as pool:
        while queued or running:
            while queued and len(running) < capacity.concurrency:
                job = queued.popleft()
                running[job.name] = watchers[job.name]
                running[job.name].start()
                pool.start(train_fold, job)
                observer(FoldStarted(job.folds[0]))
            if (ended := pool.wait(POLL_S)) is None:
                check_lock()
                for watcher in running.values():
                    watcher.poll()
                    if watcher.is_quiet and pool.lacks_ranks():
                        watcher.tell_that_it_waits()
                continue
            watcher = running.pop(ended.job.name)
            outcomes.append(outcome := _outcome(ended))
            # A store that has just taken a result is away for a moment only.
            watcher.poll(attempts=LAST_POLLS if outcome.result is not None else 1)
            if outcome.fault is not None:
                queued.clear()
            observer(_ending(outcome, len(queued)))
    return outcomes


def _outcome(ended: JobOutcome) -> FoldOutcome:
    (fold,) = ended.job.folds
    match ended.value:
        case FoldResult() as result:
            return FoldOutcome(fold, result=result)
        case PermanentFailure(reason=text):
            write_error(ended.job, text)
            return FoldOutcome(fold, failure=text, retryable=False)
        case Exception() as error:
            return FoldOutcome(fold, failure=failure_reason(ended.job, error), fault=store_fault(error))
        case other:
            return FoldOutcome(fold, failure=f"rank 0 returned {other!r} instead of a result; please report this")


def _ending(outcome: FoldOutcome, queued: int) -> FoldFinished | FoldFailed:
    if outcome.result is not None:
        result = outcome.result
        return FoldFinished(fold=outcome.fold, score=result.score, seconds=result.seconds, queued=queued)
    return FoldFailed(fold=outcome.fold, reason=outcome.failure or "", queued=queued)


def _event(job: Job, record: Record) -> FoldNote | FoldResumed | FoldEpoch:
    fold = job.folds[0]
    match record:
        case NoteRecord(note=text):
            return FoldNote(fold, text)
        case ResumeRecord(resumed_after=epoch):
            return FoldResumed(fold, epoch)
        case EpochRecord():
            return FoldEpoch(
                fold=fold,
                epoch=record.epoch,
                epochs=job.config.train.epochs,
                loss=record.loss,
                score=record.score,
                images_per_second=record.images_per_second,
            )
