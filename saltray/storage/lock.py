"""One live process a run: a lock in the store, kept alive by a heartbeat.

A lock is an object `lock/000001.json`; the highest number counts. It is taken by a create-only put of the next number,
so of two takers one wins, on every store that has a conditional put. The owner rewrites its object with a rising beat.
Whether an owner still lives is seen by watching its beat, not by comparing clocks of different machines; the time in
the record is for people who look at a run and will not wait.
"""

import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from saltray.errors import IntegrityError, NotFoundError, RunLockedError, StorageError
from saltray.storage.base import Store

BEAT_S = 5.0
STALE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who took a lock last."""

    host: str
    pid: int
    space: str
    """The process ids that `pid` is one of: two containers of one host name may number theirs apart."""
    released: bool
    """Whether it gave the lock up."""
    at: float | None
    """Its last sign of life by its own clock, in seconds since 1970; None in the record of an older saltray."""

    def lives(self) -> bool:
        """Whether it holds the lock and showed life lately; only as right as the clocks of the machines."""
        if self.released or self.at is None or self.is_gone_here():
            return False
        return time.time() - self.at < STALE_S

    def is_gone_here(self) -> bool:
        """Whether it was a process that this one could see, and can no longer."""
        return (self.host, self.space) == (socket.gethostname(), _space()) and not _process_exists(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def owner_of(store: Store) -> Owner | None:
    """Who took the lock of a run last, as it is written at this moment; None where nobody did."""
    numbers = _numbers(store)
    record = _read(store, numbers[-1]) if numbers else None
    return _owner(record) if record is not None else None


class RunLock:
    """Context manager that holds the lock of one run.

    Args:
        store: the run's own part of the store.
        what: how the run is called in messages.
        beat: seconds between two heartbeats.
        stale: seconds without a heartbeat after which an owner counts as dead.

    Attributes:
        taken_from: description of the dead owner whose lock was taken over, or None.
        lost: set when another process has taken the lock over; the owner must then stop writing.

    Raises:
        RunLockedError: on entering, when another live process holds the lock.
    """

    def __init__(self, store: Store, what: str, *, beat: float = BEAT_S, stale: float = STALE_S) -> None:
        self.store = store
        self.what = what
        self.beat = beat
        self.stale = stale
        self.taken_from: str | None = None
        self.lost = threading.Event()
        self._done = threading.Event()
        self._number = 0
        self._beats = 0
        self._thread = threading.Thread(target=self._keep, name="run-lock", daemon=True)

    def __enter__(self) -> Self:
        numbers = _numbers(self.store)
        if numbers:
            record = _read(self.store, numbers[-1])
            if record is not None and not record["released"] and self._died(numbers[-1], record):
                self.taken_from = str(_owner(record))
        self._number = (numbers[-1] if numbers else 0) + 1
        won = self.store.put_new_json(_key(self._number), self._record(released=False))
        if won and _numbers(self.store)[-1] > self._number:
            # Since we looked, one took this very number and the next one took over from it and deleted it.
            self.store.delete(_key(self._number))
            won = False
        if not won:
            raise RunLockedError(f"{self.what} was started by another process at this moment; let that one finish")
        for number in numbers:
            self.store.delete(_key(number))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if not self.lost.is_set():
            self.store.put_json(_key(self._number), self._record(released=True))

    def _keep(self) -> None:
        while not self._done.wait(self.beat):
            self._beats += 1
            try:
                if _numbers(self.store)[-1:] > [self._number]:
                    self.lost.set()
                    return
                self.store.put_json(_key(self._number), self._record(released=False))
            except StorageError:
                # The store's own deadline has passed; the next beat tries again, and until then the lock may go stale.
                continue

    def _died(self, number: int, record: dict[str, Any]) -> bool:
        """Whether the owner is dead, at once for a process on this host; False where the lock was given up meanwhile.

        Raises:
            RunLockedError: the owner lives.
        """
        if _owner(record).is_gone_here():
            return True
        deadline = time.monotonic() + self.stale
        while time.monotonic() < deadline:
            time.sleep(min(self.beat / 2, 1.0))
            now = _read(self.store, number)
            if now is None or now["released"]:
                return False
            if now["beat"] != record["beat"]:
                raise RunLockedError(
                    f"{self.what} is being run by {_owner(record)}; wait for it, stop it, or choose another name"
                )
        return True

    def _record(self, *, released: bool) -> dict[str, Any]:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "space": _space()}
        return {**me, "beat": self._beats, "at": time.time(), "released": released}


def _numbers(store: Store) -> list[int]:
    return sorted(int(entry.key.removeprefix("lock/").removesuffix(".json")) for entry in store.list("lock"))


def _read(store: Store, number: int) -> dict[str, Any] | None:
    try:
        return dict(store.get_json(_key(number)))
    except (NotFoundError, IntegrityError):
        return None


def _key(number: int) -> str:
    return f"lock/{number:06d}.json"


def _owner(record: dict[str, Any]) -> Owner:
    return Owner(
        host=record["host"],
        pid=record["pid"],
        space=record.get("space", ""),
        released=record["released"],
        at=record.get("at"),
    )


def _space() -> str:
    """Names the kernel's namespace of this process's id; empty where there is no such thing."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
