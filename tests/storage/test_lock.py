"""At most one live process per run, on each kind of store."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saltray.errors import RunLockedError, StorageError
from saltray.storage.base import Store
from saltray.storage.lock import STALE_S, Owner, RunLock, owner_of
from saltray.storage.uri import open_store

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
    """Wait until `condition` holds, for 20 s at most."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out after 20 s")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which a process waits for an owner's heartbeat."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"sleeps {seconds} s")

    monkeypatch.setattr("saltray.storage.lock.time", SimpleNamespace(**vars(time) | {"sleep": sleep}))


def test_the_lock_is_an_object_that_describes_its_owner(store: Store) -> None:
    with RunLock(store, "run r1", beat=FOREVER_S) as lock:
        (written,) = locks(store).values()
        assert time.time() - 60 < written.pop("at") <= time.time()
        assert written == record(host=socket.gethostname(), pid=os.getpid())
        assert lock.taken_from is None
        lock.check()
    assert locks(store)["lock/000001.json"]["released"] is True


def test_a_second_process_is_refused_while_the_first_has_heartbeats(store: Store) -> None:
    with RunLock(store, "run r1", beat=BEAT_S) as first:
        for _ in range(2):
            with pytest.raises(RunLockedError, match="run r1 is being run by process") as caught:
                RunLock(open_store(store.uri), "run r1", beat=BEAT_S, stale=FOREVER_S).__enter__()
        assert f"process {os.getpid()} on {socket.gethostname()}; wait for it" in str(caught.value)
        assert list(locks(store)) == ["lock/000001.json"]
        assert not first.lost.is_set()


@pytest.mark.usefixtures("no_waiting")
def test_a_released_lock_is_acquired_at_once(store: Store) -> None:
    with RunLock(store, "run r1", beat=FOREVER_S):
        pass
    with RunLock(store, "run r1", beat=FOREVER_S) as second:
        assert second.taken_from is None
        assert list(locks(store)) == ["lock/000002.json"]  # the old object was deleted


def test_the_lock_is_released_if_the_body_raises(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(store, "run r1", beat=FOREVER_S):
        raise ZeroDivisionError
    assert locks(store)["lock/000001.json"]["released"] is True


def test_a_stale_lock_is_taken_over_and_its_owner_described(store: Store) -> None:
    store.put_json("lock/000041.json", record(host="elsewhere", pid=7))
    with RunLock(store, "run r1", beat=BEAT_S, stale=0.2) as lock:
        assert lock.taken_from == "process 7 on elsewhere"
        assert list(locks(store)) == ["lock/000042.json"]


def test_the_heartbeat_decides_for_a_process_in_another_container_of_this_host(store: Store) -> None:
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
def test_a_dead_process_of_this_host_is_detected_at_once(store: Store) -> None:
    die_holding = (
        "import os, sys; from saltray.storage.lock import RunLock; from saltray.storage.uri import open_store\n"
        "RunLock(open_store(sys.argv[1]), 'run r1').__enter__(); os._exit(9)"
    )
    with subprocess.Popen([sys.executable, "-c", die_holding, store.uri]) as process:
        assert process.wait() == 9
    assert [lock["released"] for lock in locks(store).values()] == [False]
    with RunLock(store, "run r1", beat=FOREVER_S, stale=FOREVER_S) as lock:
        assert lock.taken_from == f"process {process.pid} on {socket.gethostname()}"


def test_a_lock_released_while_another_process_waits_has_no_dead_owner(store: Store) -> None:
    store.put_json("lock/000001.json", record())
    release = threading.Timer(0.2, store.put_json, ("lock/000001.json", record(released=True)))
    release.start()
    with RunLock(store, "run r1", beat=BEAT_S, stale=FOREVER_S) as lock:
        assert lock.taken_from is None
    release.join()


@pytest.mark.parametrize("before", ["none", "released", "dead"])
def test_exactly_one_of_eight_concurrent_processes_acquires_the_lock(store: Store, before: str) -> None:
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
    messages = [str(error) for error in ended if isinstance(error, RunLockedError)]
    assert (len(winners), len(messages)) == (1, 7)
    assert all(line.startswith(("run r1 was started by another", "run r1 is being run by")) for line in messages)
    assert not winners[0].lost.is_set()
    winners[0].__exit__(None, None, None)
    assert [lock["released"] for lock in locks(store).values()] == [True]


def test_a_process_with_an_outdated_listing_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its listing and its put, one process acquired and released number 2, and another acquired number 3."""
    store.put_json("lock/000001.json", record(released=True))
    newest = record(host="third", beat=5)
    put_new_record = store.put_new_record

    def after_the_others(key: str, owner: Owner) -> bool:
        store.delete("lock/000001.json")
        store.put_json("lock/000003.json", newest)
        return put_new_record(key, owner)

    monkeypatch.setattr(store, "put_new_record", after_the_others)
    with pytest.raises(RunLockedError, match="run r1 was started by another process at this moment"):
        RunLock(store, "run r1", beat=FOREVER_S).__enter__()
    assert locks(store) == {"lock/000003.json": newest}


def test_a_stalled_owner_is_told_that_the_lock_was_taken_over(store: Store) -> None:
    new = record(host="elsewhere", beat=3)
    with RunLock(store, "run r1", beat=BEAT_S) as lock:
        store.put_json("lock/000002.json", new)
        store.delete("lock/000001.json")
        assert lock.lost.wait(20)
        with pytest.raises(RunLockedError, match="run r1 was taken over by another process .*; let that one finish"):
            lock.check()
    assert locks(store) == {"lock/000002.json": new}  # changed neither by a heartbeat nor by the release


def test_an_owner_that_ends_before_it_is_told_does_not_release_the_new_lock(store: Store) -> None:
    new = record(host="elsewhere", beat=3)
    with RunLock(store, "run r1", beat=FOREVER_S):
        store.put_json("lock/000002.json", new)
    assert locks(store)["lock/000002.json"] == new
    with RunLock(store, "run r1", beat=BEAT_S, stale=0.2) as third:
        assert third.taken_from == "process 7 on elsewhere"
        assert list(locks(store)) == ["lock/000003.json"]


def test_a_failed_heartbeat_is_retried(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_record = store.put_record
    failures: list[str] = []

    def fail_twice(key: str, owner: Owner) -> None:
        if len(failures) < 2:
            failures.append(key)
            raise StorageError("the store is temporarily unavailable")
        put_record(key, owner)

    with RunLock(store, "run r1", beat=BEAT_S) as lock:
        monkeypatch.setattr(store, "put_record", fail_twice)
        until(lambda: locks(store)["lock/000001.json"]["beat"] > 2)
        assert failures == ["lock/000001.json"] * 2
        assert not lock.lost.is_set()
    assert locks(store)["lock/000001.json"]["released"] is True


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"{}", b'{"host": "h", "pid": 7, "beat": 0}', b'{"host": "h", "pid": "7", "beat": 0, "released": 1}'],
)
def test_a_lock_whose_record_cannot_be_read_is_taken_over_once_it_is_stale(store: Store, data: bytes) -> None:
    store.put("lock/000001.json", data)
    assert owner_of(store) is None
    begun = time.monotonic()
    with RunLock(store, "run r1", beat=BEAT_S, stale=0.2) as lock:
        assert time.monotonic() - begun >= 0.2
        assert lock.taken_from == "a process whose record cannot be read"
        assert list(locks(store)) == ["lock/000002.json"]


def test_a_live_owner_whose_record_was_damaged_keeps_its_lock(store: Store) -> None:
    with RunLock(store, "run r1", beat=0.3) as first:
        store.put("lock/000001.json", b"{")
        with pytest.raises(RunLockedError, match=f"run r1 is being run by process {os.getpid()}"):
            RunLock(open_store(store.uri), "run r1", beat=BEAT_S, stale=FOREVER_S).__enter__()
        first.check()


def test_what_is_written_through_the_lock_stops_when_it_is_lost(store: Store, tmp_path: Path) -> None:
    """In this process, which has not noticed, and in a worker's, to which the store travels."""
    file = tmp_path / "file"
    file.write_bytes(b"1")
    with RunLock(store, "run r1", beat=FOREVER_S) as lock:
        mine = lock.guard(store).sub("fold-0")
        mine.put("a", b"mine")
        assert mine.put_new("b", b"mine") is True
        workers = pickle.loads(pickle.dumps(mine))
        store.put_json("lock/000002.json", record(host="elsewhere"))
        for call in (
            lambda: workers.put("a", b"late"),
            lambda: workers.put_new("c", b"late"),
            lambda: workers.put_file("a", file),
            lambda: workers.put_json("a", {}),
            lambda: workers.delete("a"),
            lambda: workers.delete_prefix("x"),
        ):
            with pytest.raises(RunLockedError, match="run r1 was taken over by another process"):
                call()
        assert workers.get("a") == b"mine"
        assert [entry.key for entry in workers.list()] == ["a", "b"]
        assert workers.folders() == []
        assert workers == mine == store.sub("fold-0")


def test_a_process_that_was_stopped_for_longer_than_its_lock_writes_nothing_more(any_store_uri: str) -> None:
    script = (
        "import sys; from saltray.errors import RunLockedError\n"
        "from saltray.storage.lock import RunLock; from saltray.storage.uri import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "with RunLock(store, 'run r1', beat=0.2) as lock:\n"
        "    mine, number = lock.guard(store), 0\n"
        "    print('running', flush=True)\n"
        "    while True:\n"
        "        try:\n"
        "            mine.put('object', b'old owner')\n"
        "        except RunLockedError as error:\n"
        "            print(error, flush=True)\n"
        "            break\n"
    )
    command = [sys.executable, "-c", script, any_store_uri]
    store = open_store(any_store_uri)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "running\n"
        owner.send_signal(signal.SIGSTOP)
        with RunLock(store, "run r1", beat=0.1, stale=0.5) as lock:
            assert lock.taken_from == f"process {owner.pid} on {socket.gethostname()}"
            lock.guard(store).put("object", b"new owner")
            owner.send_signal(signal.SIGCONT)
            assert "was taken over by another process" in owner.stdout.readline()
            assert owner.wait(20) == 0
            # What it was in the middle of when it was stopped may end; nothing after that.
            lock.guard(store).put("object", b"new owner")
        assert store.get("object") == b"new owner"
        assert [lock["released"] for lock in locks(store).values()] == [True]


@pytest.mark.usefixtures("no_waiting")
def test_other_objects_in_the_folder_are_no_locks(store: Store) -> None:
    for name in ("notes.txt", "7.json", "000007.json.bak"):
        store.put(f"lock/{name}", b"")
    assert owner_of(store) is None
    with RunLock(store, "run r1", beat=FOREVER_S):
        assert store.exists("lock/000001.json")


def test_the_owner_of_an_older_version_has_neither_namespace_nor_time(store: Store) -> None:
    store.put_json("lock/000001.json", {"host": "h", "pid": 7, "beat": 3, "released": False})
    owner = owner_of(store)
    assert owner == Owner(host="h", pid=7, beat=3, released=False)
    assert str(owner) == "process 7 on h"
    assert not owner.is_alive()


@pytest.mark.parametrize(
    ("changes", "alive", "dead"),
    [
        ({}, True, False),
        ({"at": -STALE_S - 1}, False, False),
        ({"at": 20.0}, True, False),
        ({"released": True}, False, False),
        ({"pid": 10**30}, False, True),
        ({"pid": 10**30, "host": "elsewhere"}, True, False),
        ({"pid": 10**30, "pid_namespace": "pid:[1]"}, True, False),
    ],
    ids=str,
)
def test_an_owner_is_alive_unless_stale_or_known_dead(changes: dict[str, Any], alive: bool, dead: bool) -> None:
    here: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "pid_namespace": SPACE}
    here |= {"beat": 0, "released": False}
    owner = Owner(**here | changes | {"at": time.time() + changes.get("at", 0)})
    assert (owner.is_alive(), owner.is_known_dead()) == (alive, dead)
