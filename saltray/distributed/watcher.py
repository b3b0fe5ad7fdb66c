"""What the driver tells of a job while it runs, from the records that its rank 0 writes to the store."""

import time
from collections.abc import Callable
from contextlib import suppress

from saltray.distributed.jobs import Job
from saltray.errors import IntegrityError, StorageError
from saltray.progress import Event, Observer
from saltray.runs.history import Record, read_history

POLL_S = 0.5
LAST_POLLS = 3
"""Attempts to read the records of a job that has finished; each lasts until the store's own deadline."""
WAITING_S = 300.0
"""Time without a record after which a job may be waiting for its nodes, and interval between two reports of it."""


class Watcher:
    """Reports a job's new records to the observer, as they appear in the store.

    Args:
        job: the job.
        observer: receives the events.
        event: the event of a record.
        waiting: the event that says for how many minutes the job has waited for its nodes.
    """

    def __init__(
        self, job: Job, observer: Observer, event: Callable[[Record], Event], waiting: Callable[[float], Event]
    ) -> None:
        self._job = job
        self._observer = observer
        self._event = event
        self._waiting = waiting
        self._reported: set[float] = set()
        with suppress(IntegrityError):  # where they cannot be read, none of them comes again
            self._reported |= {record.at for record in read_history(job.home)}  # by an earlier attempt
        self._last_sign = self._told = 0.0

    def start(self) -> None:
        """The job starts."""
        self._last_sign = self._told = time.monotonic()

    def poll(self, attempts: int = 1) -> None:
        """Report what is new; a store that cannot be read now does not stop the job."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(POLL_S)
            try:
                records = read_history(self._job.home)
            except StorageError:
                continue
            for record in records:
                if record.at not in self._reported:
                    self._reported.add(record.at)
                    self._last_sign = self._told = time.monotonic()
                    self._observer(self._event(record))
            return

    @property
    def is_quiet(self) -> bool:
        """Whether there was neither a record nor a report for a while."""
        return time.monotonic() - self._told > WAITING_S

    def tell_that_it_waits(self) -> None:
        """Report that the job waits for its nodes, before its first record or after it has lost them."""
        self._told = time.monotonic()
        self._observer(self._waiting((self._told - self._last_sign) / 60))
