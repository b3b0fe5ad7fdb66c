"""The history of a fold: what is written, when, and what an earlier version or an accident left is read as."""

import json
import math
import time
from dataclasses import replace

import pytest
from samples import STORED_EPOCH, metrics

from saltray.errors import IntegrityError, StorageError
from saltray.records import to_record
from saltray.runs.history import EpochRecord, History, NoteRecord, Record, ResumeRecord, epochs_of, read_history
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

KEY = "history.jsonl"


def unstamped(records: tuple[Record, ...]) -> list[Record]:
    """Records without the time of their writing, which each of them must have."""
    assert all(abs(time.time() - record.at) < 60 for record in records)
    return [replace(record, at=0.0) for record in records]


def stamped(epoch: EpochMetrics) -> EpochRecord:
    return EpochRecord(**vars(epoch), at=0.0)


def wait_for(store: Store, count: int) -> None:
    end = time.monotonic() + 10
    while len(read_history(store)) != count:
        assert time.monotonic() < end, f"{count} records were never written"
        time.sleep(0.01)


def test_without_a_record_nothing_is_written(store: Store) -> None:
    assert read_history(store) == ()
    with History(store):
        pass
    assert list(store.list()) == []


def test_each_record_is_one_json_line(store: Store) -> None:
    with History(store) as history:
        history.append(metrics(1))
        history.note("checkpoint epoch-00002 is\nskipped: grüße")
        history.resume(1)
        history.append(metrics(2, None))
    lines = store.get(KEY).decode().splitlines()
    assert [set(json.loads(line)) - {"at"} for line in lines] == [
        set(vars(metrics(1))),
        {"note"},
        {"resumed_after"},
        set(vars(metrics(1))),
    ]
    assert lines == [json.dumps(to_record(record), sort_keys=True) for record in history.records]
    read = read_history(store)
    assert read == tuple(history.records)
    assert [record.at for record in read] == sorted(record.at for record in read)
    assert unstamped(read) == [
        stamped(metrics(1)),
        NoteRecord(note="checkpoint epoch-00002 is\nskipped: grüße", at=0.0),
        ResumeRecord(resumed_after=1, at=0.0),
        stamped(metrics(2, None)),
    ]
    assert unstamped(history.epochs) == unstamped(epochs_of(read)) == [stamped(metrics(1)), stamped(metrics(2, None))]


def test_the_history_of_an_earlier_version_is_continued_byte_for_byte(store: Store) -> None:
    before = [
        {"at": 1795712815.5, "note": "runs on 10.0.0.1"},
        STORED_EPOCH,
        STORED_EPOCH | {"epoch": 2, "score": None},
    ]
    written = "".join(json.dumps(line, sort_keys=True) + "\n" for line in before).encode()
    store.put(KEY, written)
    note, first, second = read_history(store)
    assert note == NoteRecord(note="runs on 10.0.0.1", at=1795712815.5)
    assert first == EpochRecord(**STORED_EPOCH)
    assert isinstance(second, EpochRecord)
    assert (second.epoch, second.score) == (2, None)
    with History(store, (note, first, second)) as history:
        history.resume(2)
    assert store.get(KEY).startswith(written)
    assert read_history(store)[:3] == (note, first, second)


def test_records_after_the_checkpoint_are_replaced(store: Store) -> None:
    with History(store) as history:
        for number in (1, 2, 3):
            history.append(metrics(number))
    first = read_history(store)
    with History(store, first[:2]) as history:
        history.append(metrics(3, 0.9))
    again = read_history(store)
    assert again[:2] == first[:2]  # with the times of the first attempt
    assert unstamped(again[2:]) == [stamped(metrics(3, 0.9))]


def test_records_are_in_the_store_while_the_fold_trains(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.runs.history.WRITE_INTERVAL_S", 0.01)
    with History(store) as history:
        for count in (1, 2):
            history.append(metrics(count))
            wait_for(store, count)


def test_records_are_written_even_if_the_body_raises(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), History(store) as history:
        history.append(metrics(1))
        raise ZeroDivisionError
    assert unstamped(read_history(store)) == [stamped(metrics(1))]


def test_a_failed_write_is_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.runs.history.WRITE_INTERVAL_S", 0.01)
    put = store.put
    failures: list[str] = []

    def fail_twice(key: str, data: bytes) -> None:
        if len(failures) < 2:
            failures.append(key)
            raise StorageError("the store is down for a moment")
        put(key, data)

    monkeypatch.setattr(store, "put", fail_twice)
    with History(store) as history:
        history.append(metrics(1))
        wait_for(store, 1)
    assert failures == [KEY, KEY]


@pytest.mark.parametrize(("body", "raised"), [(None, StorageError), (ZeroDivisionError, ZeroDivisionError)])
def test_a_lost_history_raises_unless_worse_happened(
    store: Store, monkeypatch: pytest.MonkeyPatch, body: type[Exception] | None, raised: type[Exception]
) -> None:
    def fail(key: str, data: bytes) -> None:
        raise StorageError("the store is down")

    monkeypatch.setattr(store, "put", fail)
    with pytest.raises(raised), History(store) as history:
        history.append(metrics(1))
        if body is not None:
            raise body


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ("", "the record is missing"),
        ('{"epoch": 1, "loss": ', "not JSON"),
        ("[]", r"is \[\]"),
        ('{"note": 3, "at": 1.0}', "NoteRecord.note is 3"),
        ('{"note": "x"}', "NoteRecord.at is missing"),
        ('{"resumed_after": 1.5, "at": 1.0}', "ResumeRecord.resumed_after is 1.5"),
        (json.dumps(STORED_EPOCH | {"loss": "low"}), 'EpochRecord.loss is "low"'),
        (json.dumps(STORED_EPOCH | {"extra": 1}), "EpochRecord.extra is unknown"),
        (json.dumps(STORED_EPOCH | {"loss": math.nan}), "EpochRecord.loss is NaN; it should be a finite number"),
        (json.dumps(STORED_EPOCH).replace(str(STORED_EPOCH["loss"]), "1e999"), "it should be a finite number"),
        ('{"note": "a", "at": 1.0}{"note": "b", "at": 1.0}', "not JSON"),
    ],
)
def test_a_corrupted_history_is_named_with_its_fault(store: Store, line: str, fault: str) -> None:
    store.put(KEY, f'{{"at": 1.0, "note": "x"}}\n{line}\n'.encode())
    with pytest.raises(
        IntegrityError, match=f"{store.uri}/{KEY} is corrupted in line 2: .*{fault}.*; delete it"
    ) as caught:
        read_history(store)
    assert "\n" not in str(caught.value)


def test_a_last_line_that_was_cut_off_is_left_out(store: Store) -> None:
    with History(store) as history:
        history.append(metrics(1))
        history.append(metrics(2))
    whole = store.get(KEY)
    first = whole.index(b"\n") + 1
    for end in (first, first + 1, len(whole) - 2):
        store.put(KEY, whole[:end])
        assert read_history(store) == tuple(history.records[:1])
    store.put(KEY, whole[:-1])
    assert read_history(store) == tuple(history.records)


def test_a_history_beyond_its_limit_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.runs.history.HISTORY_BYTES", 100)
    store.put(KEY, b'{"at": 1.0, "note": "x"}\n' * 5)
    with pytest.raises(IntegrityError, match=f"{KEY}: it has more than 100 bytes"):
        read_history(store)
