"""At most one live process per run: a lock in the store, kept alive by a heartbeat.

The lock is an object `lock/000001.json`; if there are several, the highest number counts. A process acquires it by a
create-only put of the next number, so of several processes exactly one succeeds, on every store with conditional puts.
The owner rewrites its object at each heartbeat. A process that waits for the lock decides that the owner is dead when
the object stops changing, and never compares clocks of different machines; so it does of a record that cannot be read.
The time in the record serves `owner_of` alone, which answers at once.

An owner may be stopped for longer than that, be taken for dead, and wake again. So whatever it and its workers write
passes through the store of `RunLock.guard`, which asks the lock first.
"""

import math
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Annotated, Self

import pydantic

from saltray.errors import IntegrityError, NotFoundError, RunLockedError, StorageError
from saltray.records import Count, Seconds
from saltray.storage.base import Store
from saltray.storage.guarded import GuardedStore

BEAT_S = 5.0
STALE_S = 30.0

FOLDER = "lock"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that acquired a lock last, as recorded in the lock's object."""

    host: str
    pid: Annotated[int, pydantic.Field(ge=1, lt=2**31)]
    pid_namespace: Annotated[str, pydantic.Field(alias="space")] = ""
    """Two containers with the same host name may each have a process `pid`. Empty in records of older versions."""
    beat: Count
    """Number of heartbeats."""
    at: Seconds | None = None
    """Time of the last heartbeat by the owner's clock, in seconds since 1970; None in records of older versions."""
    released: bool
    """Whether the owner released the lock."""

    def is_alive(self) -> bool:
        """Whether it holds the lock and had a heartbeat recently, provided that the machines' clocks agree."""
        if self.released or self.at is None or self.is_known_dead():
            return False
        return time.time() - self.at < STALE_S

    def is_known_dead(self) -> bool:
        """Whether it was a process on this host, in this process's namespace, that no longer exists."""
        here = socket.gethostname(), _pid_namespace()
        return (self.host, self.pid_namespace) == here and not _process_exists(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def owner_of(store: Store) -> Owner | None:
    """The process that acquired the lock of a run last; None if there is no lock, or its record is corrupted."""
    numbers = _numbers(store)
    return _read(store, numbers[-1]) if numbers else None


class LockGuard:
    """Answers in any process whether a lock is still held: by a listing, at most one in `beat` seconds.

    Args:
        store: the run's own part of the store.
        number: of the lock.
        what: the run's name in messages.
        beat: seconds for which an answer holds.
    """

    def __init__(self, store: Store, number: int, what: str, beat: float) -> None:
        self._store = store
        self._number = number
        self._what = what
        self._beat = beat
        self._held_at = -math.inf

    def __reduce__(self) -> tuple[type["LockGuard"], tuple[Store, int, str, float]]:
        return LockGuard, (self._store, self._number, self._what, self._beat)  # the answer does not travel

    def check(self) -> None:
        """Return if the lock is still held.

        Raises:
            RunLockedError: another process has taken it over.
            StorageError: the store cannot tell.
        """
        now = _seconds_awake_or_not()
        if now - self._held_at < self._beat:
            return
        if _numbers(self._store)[-1:] > [self._number]:
            raise self.error()
        self._held_at = now

    def error(self) -> RunLockedError:
        """What to tell the user when the lock was lost."""
        return RunLockedError(
            f"{self._what} was taken over by another process while this one was stalled; let that one finish"
        )


class RunLock:
    """Context manager that holds the lock of one run.

    Args:
        store: the run's own part of the store.
        what: the run's name in messages.
        beat: seconds between two heartbeats.
        stale: seconds without a heartbeat after which an owner counts as dead.

    Attributes:
        taken_from: description of the dead owner whose lock was taken over, or None.
        lost: set when another process has taken the lock over. The owner must then stop writing; see `check`.

    Raises:
        RunLockedError: on entering, if another live process holds the lock.
    """

    def __init__(self, store: Store, what: str, *, beat: float = BEAT_S, stale: float = STALE_S) -> None:
        self.store = store
        self.what = what
        self.beat = beat
        self.stale = stale
        self.taken_from: str | None = None
        self._guard = LockGuard(store, 0, what, beat)
        self.lost = threading.Event()
        self._done = threading.Event()
        self._number = 0
        self._beats = 0
        self._thread = threading.Thread(target=self._send_heartbeats, name="run-lock", daemon=True)

    def __enter__(self) -> Self:
        numbers = _numbers(self.store)
        if numbers:
            owner = _read(self.store, numbers[-1])
            if (owner is None or not owner.released) and self._is_dead(numbers[-1], owner):
                self.taken_from = str(owner or "a process whose record cannot be read")
        self._number = (numbers[-1] if numbers else 0) + 1
        acquired = self.store.put_new_record(_key(self._number), self._record(released=False))
        if acquired and _numbers(self.store)[-1] > self._number:
            # Since the listing above, one process acquired this number, and the next one took over and deleted it.
            self.store.delete(_key(self._number))
            acquired = False
        if not acquired:
            raise RunLockedError(f"{self.what} was started by another process at this moment; let that one finish")
        for number in numbers:
            self.store.delete(_key(number))
        self._guard = LockGuard(self.store, self._number, self.what, self.beat)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        with suppress(*([StorageError] if kind else [])):  # the exception in flight matters more
            if self._is_held():
                self.store.put_record(_key(self._number), self._record(released=True))

    def _is_held(self) -> bool:
        """What `check` does, as an answer."""
        try:
            self.check()
        except RunLockedError:
            return False
        return True

    def guard(self, store: Store) -> Store:
        """The same store, which writes only while this lock is held. It travels to workers."""
        return GuardedStore(store, self._guard)

    def check(self) -> None:
        """Return unless the lock is known to be lost: also while the store cannot be reached.

        Raises:
            RunLockedError: another process has taken it over.
        """
        if self.lost.is_set():
            raise self._guard.error()
        with suppress(StorageError):
            self._guard.check()

    def _send_heartbeats(self) -> None:
        while not self._done.wait(self.beat):
            self._beats += 1
            try:
                self._guard.check()
                self.store.put_record(_key(self._number), self._record(released=False))
            except RunLockedError:
                self.lost.set()
                return
            except StorageError:
                # The store's own deadline has passed. The next heartbeat may succeed; until then the lock may go stale.
                continue

    def _is_dead(self, number: int, owner: Owner | None) -> bool:
        """Whether the owner is dead: at once for a process of this host, else after `stale` seconds without heartbeat.

        Args:
            number: of the lock.
            owner: None if the record cannot be read. A live owner soon replaces it.

        Returns:
            False if the owner released the lock meanwhile.

        Raises:
            RunLockedError: the owner is alive.
        """
        if owner is not None and owner.is_known_dead():
            return True
        deadline = time.monotonic() + self.stale
        while time.monotonic() < deadline:
            time.sleep(min(self.beat / 2, 1.0))
            now = _read(self.store, number)
            if now is None and owner is None and self.store.exists(_key(number)):
                continue
            if now is None or now.released:
                return False
            if owner is None or now.beat != owner.beat:
                raise RunLockedError(f"{self.what} is being run by {now}; wait for it, stop it, or choose another name")
        return True

    def _record(self, *, released: bool) -> Owner:
        return Owner(
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_namespace=_pid_namespace(),
            beat=self._beats,
            at=time.time(),
            released=released,
        )


def _seconds_awake_or_not() -> float:
    """A clock that counts also while this machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _key(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _numbers(store: Store) -> list[int]:
    """Numbers of the locks in the store, ascending."""
    stems = {entry.key: PurePosixPath(entry.key).stem for entry in store.list(FOLDER)}
    return sorted(int(stem) for key, stem in stems.items() if stem.isdecimal() and _key(int(stem)) == key)


def _read(store: Store, number: int) -> Owner | None:
    try:
        return store.get_record(_key(number), Owner)
    except (NotFoundError, IntegrityError):
        return None


def _pid_namespace() -> str:
    """The kernel's name of this process's PID namespace; empty where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True
