"""Tasks are done on all cores, in order, a bounded number at a time, and nothing is left of the workers."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from saltray.data.workers import LEAST_TASKS, bounded, map_here, map_on_cores
from saltray.errors import DataError, ResourceError, SaltrayError

TWO_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def children() -> list[bytes]:
    """The command of each worker that this process has."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    commands = (Path("/proc", pid, "cmdline").read_bytes() for pid in pids)
    return [command for command in commands if b"serve()" in command]


def test_results_are_in_the_order_of_the_tasks() -> None:
    assert list(map_here(abs, [-2, 1])) == [2, 1]
    assert list(map_on_cores(abs, iter([]))) == []
    for count in (1, LEAST_TASKS, 40):
        assert list(map_on_cores(partial(pow, 3), range(count))) == [3**n for n in range(count)]
    assert children() == []


@TWO_CORES
def test_many_tasks_are_done_by_other_processes() -> None:
    few = set(map_on_cores(eval, ["__import__('os').getpid()"] * (LEAST_TASKS - 1)))
    many = set(map_on_cores(eval, ["print('no answer') or __import__('os').getpid()"] * 20))
    assert few == {os.getpid()}
    assert os.getpid() not in many
    assert 1 <= len(many) <= len(os.sched_getaffinity(0))


def test_tasks_are_taken_as_results_are_used() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    results = bounded(abs, abs, tasks(), 3)
    assert list(islice(results, 2)) == [0, 1]
    assert taken == [0, 1, 2, 3]
    on_cores = map_on_cores(abs, tasks())
    next(on_cores)
    assert len(taken) < 50
    on_cores.close()  # type: ignore[attr-defined]
    assert children() == []


def fail(number: int) -> int:
    if number == 5:
        raise DataError("five", ("line",))
    return number


def die(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@TWO_CORES
def test_an_error_of_a_task_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers import what tasks are made of; a test's own functions they can find only here.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(DataError, match="five") as caught:
        list(map_on_cores(fail, range(1000)))
    assert caught.value.problems == ("line",)
    assert children() == []
    with pytest.raises(ResourceError, match=r"was killed \(exit code -9\), probably because memory is short"):
        list(map_on_cores(die, range(1000)))
    assert children() == []
    assert issubclass(ResourceError, SaltrayError)
