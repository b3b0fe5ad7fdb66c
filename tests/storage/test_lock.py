"""One live process a run, on each kind of store."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from saltray.errors import RunLockedError, StorageError
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.names import open_store

BEAT_S = 0.03
FOREVER_S = 1000.0


def locks(store: Store) -> dict[str, Any]:
    return {entry.key: store.get_json(entry.key) for entry in store.list("lock")}


SPACE = os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def record(
    *, host: str = "elsewhere", pid: int = 7, space: str = SPACE, beat: int = 0, released: bool = False
) -> dict[str, Any]:
    return {"host": host, "pid": pid, "space": space, "beat": beat, "released": released}


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; a test that waits in vain fails."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches an owner's beat fails."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"sleeps {seconds} s")

    monkeypatch.setattr(
        "saltray.storage.lock.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time)
    )


def test_the_lock_is_an_object_with_its_owner(store: Store) -> None:
    with RunLock(store, "run r1", beat=FOREVER_S) as lock:
        (written,) = locks(store).values()
        assert time.time() - 60 < written.pop("at") <= time.time()
        assert written == record(host=socket.gethostname(), pid=os.getpid())
        assert lock.taken_from is None
        assert not lock.lost.is_set()
    assert locks(store)["lock/000001.json"]["released"] is True


def test_a_second_holder_is_refused_while_the_first_beats(store: Store) -> None:
    with RunLock(store, "run r1", beat=BEAT_S) as first:
        for _ in range(2):
            with pytest.raises(RunLockedError, match="run r1 is being run by process") as caught:
                RunLock(open_store(store.uri), "run r1", beat=BEAT_S, stale=FOREVER_S).__enter__()
        assert f"process {os.getpid()} on {socket.gethostname()}; wait for it" in str(caught.value)
        assert list(locks(store)) == ["lock/000001.json"]
        assert not first.lost.is_set()


@pytest.mark.usefixtures("no_waiting")
def test_a_released_lock_is_taken_at_once(store: Store) -> None:
    with RunLock(store, "run r1", beat=FOREVER_S):
        pass
    with RunLock(store, "run r1", beat=FOREVER_S) as second:
        assert second.taken_from is None
        assert list(locks(store)) == ["lock/000002.json"]  # the old object is gone


def test_it_is_released_when_the_body_raises(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(store, "run r1", beat=FOREVER_S):
        raise ZeroDivisionError
    assert locks(store)["lock/000001.json"]["released"] is True


def test_a_stale_lock_is_taken_over_and_its_owner_described(store: Store) -> None:
    store.put_json("lock/000041.json", record(host="elsewhere", pid=7))
    with RunLock(store, "run r1", beat=BEAT_S, stale=0.2) as lock:
        assert lock.taken_from == "process 7 on elsewhere"
        assert list(locks(store)) == ["lock/000042.json"]


def test_a_process_of_another_container_of_this_host_is_watched(store: Store) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    other = record(host=socket.gethostname(), pid=dead.pid, space="pid:[1]")
    store.put_json("lock/000001.json", other)

    def beat() -> None:
        for count in range(1, 2000):
            if ended.wait(BEAT_S):
                return
            store.put_json("lock/000001.json", other | {"beat": count})

    ended = threading.Event()
    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(RunLockedError, match=f"process {dead.pid}"), RunLock(store, "run r1", beat=BEAT_S):
        pass
    ended.set()
    beating.join()


@pytest.mark.usefixtures("no_waiting")
def test_a_process_that_died_on_this_host_is_known_at_once(store: Store) -> None:
    die_holding = (
        "import os, sys; from saltray.storage import RunLock, open_store\n"
        "RunLock(open_store(sys.argv[1]), 'run r1').__enter__(); os._exit(9)"
    )
    with subprocess.Popen([sys.executable, "-c", die_holding, store.uri]) as process:
        assert process.wait() == 9
    assert [lock["released"] for lock in locks(store).values()] == [False]
    with RunLock(store, "run r1", beat=FOREVER_S, stale=FOREVER_S) as lock:
        assert lock.taken_from == f"process {process.pid} on {socket.gethostname()}"


def test_a_lock_given_up_while_it_is_watched_was_not_a_dead_ones(store: Store) -> None:
    store.put_json("lock/000001.json", record())
    release = threading.Timer(0.2, store.put_json, ("lock/000001.json", record(released=True)))
    release.start()
    with RunLock(store, "run r1", beat=BEAT_S, stale=FOREVER_S) as lock:
        assert lock.taken_from is None
    release.join()


@pytest.mark.parametrize("before", ["none", "released", "dead"])
def test_of_eight_at_once_exactly_one_wins_and_the_others_are_told(store: Store, before: str) -> None:
    if before == "released":
        store.put_json("lock/000001.json", record(released=True))
    if before == "dead":
        with subprocess.Popen(["true"]) as process:
            process.wait()
        store.put_json("lock/000001.json", record(host=socket.gethostname(), pid=process.pid))
    start = threading.Barrier(8)

    def enter(_: int) -> RunLock | RunLockedError:
        lock = RunLock(open_store(store.uri), "run r1", beat=BEAT_S, stale=FOREVER_S)
        start.wait()
        try:
            return lock.__enter__()
        except RunLockedError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(enter, range(8)))
    winners = [lock for lock in ended if isinstance(lock, RunLock)]
    told = [str(error) for error in ended if isinstance(error, RunLockedError)]
    assert (len(winners), len(told)) == (1, 7)
    assert all(line.startswith(("run r1 was started by another", "run r1 is being run by")) for line in told)
    assert not winners[0].lost.is_set()
    winners[0].__exit__(None, None, None)
    assert [lock["released"] for lock in locks(store).values()] == [True]


def test_one_that_looked_too_early_gives_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its put one owner took number 2 and was done, and the next one took number 3."""
    store.put_json("lock/000001.json", record(released=True))
    newest = record(host="third", beat=5)
    put_new_json = store.put_new_json

    def meanwhile(key: str, ours: Any) -> bool:
        store.delete("lock/000001.json")
        store.put_json("lock/000003.json", newest)
        return put_new_json(key, ours)

    monkeypatch.setattr(store, "put_new_json", meanwhile)
    with pytest.raises(RunLockedError, match="run r1 was started by another process at this moment"):
        RunLock(store, "run r1", beat=FOREVER_S).__enter__()
    assert locks(store) == {"lock/000003.json": newest}


def test_an_owner_that_stalled_learns_that_the_lock_is_lost(store: Store) -> None:
    newcomers = record(host="elsewhere", beat=3)
    with RunLock(store, "run r1", beat=BEAT_S) as lock:
        store.put_json("lock/000002.json", newcomers)
        store.delete("lock/000001.json")
        assert lock.lost.wait(20)
    assert locks(store) == {"lock/000002.json": newcomers}  # neither a beat nor the end of the loser's body touched it


def test_a_loser_that_ends_before_its_next_beat_leaves_the_newcomer_in_charge(store: Store) -> None:
    newcomers = record(host="elsewhere", beat=3)
    with RunLock(store, "run r1", beat=FOREVER_S):
        store.put_json("lock/000002.json", newcomers)
    assert locks(store)["lock/000002.json"] == newcomers
    with RunLock(store, "run r1", beat=BEAT_S, stale=0.2) as third:
        assert third.taken_from == "process 7 on elsewhere"
        assert list(locks(store)) == ["lock/000003.json"]


def test_a_beat_that_fails_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_json = store.put_json
    failures: list[str] = []

    def fail_twice(key: str, data: Any) -> None:
        if len(failures) < 2:
            failures.append(key)
            raise StorageError("the store is away for a moment")
        put_json(key, data)

    with RunLock(store, "run r1", beat=BEAT_S) as lock:
        monkeypatch.setattr(store, "put_json", fail_twice)
        until(lambda: locks(store)["lock/000001.json"]["beat"] > 2)
        assert failures == ["lock/000001.json"] * 2
        assert not lock.lost.is_set()
    assert locks(store)["lock/000001.json"]["released"] is True


def test_an_unreadable_lock_is_no_owner(store: Store) -> None:
    store.put("lock/000001.json", b"{")
    with RunLock(store, "run r1", beat=FOREVER_S, stale=FOREVER_S) as lock:
        assert lock.taken_from is None
        assert list(locks(store)) == ["lock/000002.json"]
