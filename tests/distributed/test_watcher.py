"""What a job's records tell the observer; `test_fold_jobs` and `test_pretrain_job` have it at work."""

from collections.abc import Callable

import pytest

from saltray.distributed import watcher
from saltray.distributed.jobs import Job
from saltray.distributed.watcher import Watcher
from saltray.errors import StorageError
from saltray.progress import DataNote, Event
from saltray.runs.history import History, NoteRecord, Record
from saltray.storage.base import Store


def event(record: Record) -> Event:
    assert isinstance(record, NoteRecord)
    return DataNote(record.note)


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(3)


def watch(job: Job, events: list[Event]) -> Watcher:
    return Watcher(job, events.append, event, lambda minutes: DataNote(f"waits {minutes:.0f}"))


def note(job: Job, *texts: str) -> None:
    with History(job.home) as history:
        for text in texts:
            history.note(text)


def test_each_record_is_told_once_and_none_of_an_earlier_attempt(job: Job) -> None:
    events: list[Event] = []
    note(job, "earlier")
    watching = watch(job, events)
    watching.start()
    watching.poll()
    assert events == []
    note(job, "first", "second")
    watching.poll()
    watching.poll()
    assert events == [DataNote("first"), DataNote("second")]


def test_a_store_that_is_away_is_asked_again_as_often_as_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    watching = watch(job, events)
    note(job, "last")
    read, answers = watcher.read_history, [True, True, False]

    def away_twice(home: Store) -> tuple[Record, ...]:
        if answers.pop(0):
            raise StorageError("the store is away")
        return read(home)

    monkeypatch.setattr(watcher, "read_history", away_twice)
    monkeypatch.setattr(watcher, "POLL_S", 0.0)
    watching.poll()
    assert events == []
    watching.poll(attempts=3)
    assert events == [DataNote("last")]


def test_a_job_is_quiet_until_a_record_or_a_report(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watcher.time, "monotonic", lambda: now)
    events: list[Event] = []
    watching = watch(job, events)
    watching.start()
    now += watcher.WAITING_S + 1
    assert watching.is_quiet
    watching.tell_that_it_waits()
    assert not watching.is_quiet
    now += watcher.WAITING_S + 1
    assert watching.is_quiet
    note(job, "here")
    watching.poll()
    assert not watching.is_quiet
    assert events == [DataNote("waits 5"), DataNote("here")]
