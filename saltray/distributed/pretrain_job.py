"""A pretraining as a job."""

from collections.abc import Callable

from saltray.config import PretrainConfig
from saltray.distributed.capacity import Capacity
from saltray.distributed.job_pool import JobPool
from saltray.distributed.jobs import Job, PermanentFailure
from saltray.distributed.trainer import failure_reason, store_fault, write_error
from saltray.distributed.watcher import LAST_POLLS, POLL_S, Watcher
from saltray.distributed.worker import PretrainLoop
from saltray.errors import RunLockedError, StorageError, TrainingError
from saltray.progress import Event, Observer, PretrainEpoch, PretrainNote, PretrainResumed, PretrainWaiting
from saltray.runs.history import NoteRecord, Record, ResumeRecord
from saltray.runs.layout import ERROR
from saltray.runs.records import PretrainRecord


def run_pretraining(
    job: Job, settings: PretrainConfig, capacity: Capacity, check_lock: Callable[[], None], observer: Observer
) -> PretrainRecord:
    """Pretrain to the end, from the last checkpoint.

    Args:
        job: the pretraining; its tiles need no masks.
        settings: the pretraining's own.
        capacity: what it needs.
        check_lock: raises when the lock was lost.
        observer: receives each epoch.

    Raises:
        TrainingError: the training failed.
        RunLockedError, StorageError: the lock was lost, or the store refuses.
    """

    def event(record: Record) -> Event:
        match record:
            case NoteRecord(note=text):
                return PretrainNote(text)
            case ResumeRecord(resumed_after=epoch):
                return PretrainResumed(epoch)
        return PretrainEpoch(
            epoch=record.epoch,
            epochs=job.config.train.epochs,
            loss=record.loss,
            images_per_second=record.images_per_second,
        )

    job.home.delete(ERROR)  # of an earlier attempt
    watcher = Watcher(job, observer, event, PretrainWaiting)
    with JobPool(capacity.resources) as pool:
        watcher.start()
        pool.start(PretrainLoop(settings), job)
        while (ended := pool.wait(POLL_S)) is None:
            check_lock()
            watcher.poll()
            if watcher.is_quiet and pool.lacks_ranks():
                watcher.tell_that_it_waits()
        watcher.poll(attempts=LAST_POLLS if isinstance(ended.value, PretrainRecord) else 1)
    match ended.value:
        case PretrainRecord() as result:
            return result
        case PermanentFailure(reason=reason):
            write_error(job, reason)
            remedy = "as these settings would fail again, change them and choose another --pretrain.name"
        case Exception() as error:
            reason = failure_reason(job, error)
            match store_fault(error):
                case RunLockedError() as fault:
                    raise fault
                case StorageError() as fault:
                    raise StorageError(f"{fault}; the same command resumes the pretraining") from error
            remedy = "fix the cause and run the same command again to resume it"
        case other:
            reason = f"rank 0 returned {other!r} instead of a result; please report this"
            remedy = "run the same command again to resume it"
    raise TrainingError(f"pretraining {settings.name} failed: {reason}; {remedy}")
