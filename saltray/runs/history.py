"""Each epoch's metrics of a fold or trial as JSON lines in the store, since Ray Train keeps none.

An object store cannot append, so a thread rewrites the whole small object, off the training's critical path.
"""

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from saltray.errors import IntegrityError, NotFoundError, RunLockedError, StorageError
from saltray.records import Epoch, RecordError, Seconds, parse_record, to_record
from saltray.runs.layout import HISTORY
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

WRITE_INTERVAL_S = 1.0
HISTORY_BYTES = 2**24
"""Largest size of a history: some 50 times the longest training's."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord(EpochMetrics):
    """One epoch in a history."""

    at: Seconds
    """When it ended, by the clock of its rank: seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class NoteRecord:
    """Something that the user should see: what was not as expected, and its consequence."""

    note: str
    at: Seconds


@dataclass(frozen=True, kw_only=True)
class ResumeRecord:
    """Training resumed from a checkpoint."""

    resumed_after: Epoch
    """Finished epochs in the checkpoint."""
    at: Seconds


Record = EpochRecord | NoteRecord | ResumeRecord
R = TypeVar("R", bound=Record)


class History:
    """Writer of one fold's or trial's records; a context manager that writes the last of them when it is left.

    Args:
        home: the part of the store of the fold or trial.
        records: those of earlier attempts, up to the checkpoint that training resumes from.
    """

    def __init__(self, home: Store, records: Iterable[Record] = ()) -> None:
        self.records = list(records)
        self._home = home
        self._stop = threading.Event()
        self._written = 0
        self._thread = threading.Thread(target=self._keep_writing, name="history", daemon=True)
        self._thread.start()

    @property
    def epochs(self) -> tuple[EpochRecord, ...]:
        """The epochs alone."""
        return epochs_of(self.records)

    def append(self, metrics: EpochMetrics) -> None:
        """Add an epoch; it is in the store a moment later."""
        self.records.append(EpochRecord(**asdict(metrics), at=time.time()))

    def note(self, text: str) -> None:
        """Add a note."""
        self.records.append(NoteRecord(note=text, at=time.time()))

    def resume(self, epoch: int) -> None:
        """Note that training resumes after `epoch` epochs."""
        self.records.append(ResumeRecord(resumed_after=epoch, at=time.time()))

    def __enter__(self) -> "History":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(*([StorageError, RunLockedError] if kind else [])):  # the exception in flight matters more
            self._write()

    def _keep_writing(self) -> None:
        while not self._stop.wait(WRITE_INTERVAL_S):
            # The next write has these records too, and the last one, on leaving, raises.
            with suppress(StorageError, RunLockedError):
                self._write()

    def _write(self) -> None:
        count = len(self.records)
        if count > self._written:
            lines = (json.dumps(to_record(record), sort_keys=True) + "\n" for record in self.records[:count])
            self._home.put(HISTORY, "".join(lines).encode())
            self._written = count


def epochs_of(records: Iterable[Record]) -> tuple[EpochRecord, ...]:
    """The epochs among the records."""
    return tuple(record for record in records if isinstance(record, EpochRecord))


def read_history(home: Store) -> tuple[Record, ...]:
    """All records of a fold or trial so far, oldest first; none before its first epoch.

    A last line without its end was cut off, by a full disk or a copy that broke off, and is left out.

    Raises:
        IntegrityError: it is corrupted.
    """
    try:
        *lines, rest = home.get(HISTORY, limit=HISTORY_BYTES).split(b"\n")
    except NotFoundError:
        return ()
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse_record(Record, line))  # type: ignore[arg-type]
        except RecordError as error:
            raise IntegrityError(f"{home.uri}/{HISTORY} is corrupted in line {number}: {error}; delete it") from error
    with suppress(RecordError):
        records += [parse_record(Record, rest)] if rest else []  # type: ignore[arg-type]
    return tuple(records)
