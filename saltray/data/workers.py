"""Work on all cores of this machine, a bounded number of tasks at a time.

Threads would not do: most of the time of decoding a small image is Python's own. And `multiprocessing` either forks a
process that has threads, or imports the user's script a second time. So a worker is a plain process that reads tasks
from its standard input, and ends with it.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain, islice
from queue import SimpleQueue
from typing import IO, Protocol, TypeVar

from saltray.errors import ResourceError

T = TypeVar("T")
R = TypeVar("R")
B = TypeVar("B")
LEAST_TASKS = 8
"""Fewer are done sooner than processes start."""
TASKS_EACH = 2
"""Tasks a worker that are begun or wait, so that none is idle while results are used."""


class Mapper(Protocol):
    """Does the work of many tasks, here or elsewhere; results come in the order of the tasks."""

    def __call__(self, work: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]: ...


def map_here(work: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
    """In this process, one task after another."""
    return map(work, tasks)


def map_on_cores(work: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
    """On all cores that this process may use: each has a process of its own, unless there are few tasks.

    Args:
        work: can be pickled, and so can the tasks and the results.
        tasks: are taken as they are needed.

    Raises:
        ResourceError: a worker was killed.
        whatever `work` raises.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, LEAST_TASKS))
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or len(first) < LEAST_TASKS:
        yield from map(work, chain(first, tasks))
        return
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(cores))
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(cores):
            worker = _Worker()
            stack.callback(worker.end)
            idle.put(worker)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # then the workers end, then their threads

        def call(task: T) -> R:
            worker = idle.get()
            try:
                return worker(work, task)
            finally:
                idle.put(worker)

        def start(task: T) -> Future[R]:
            return pool.submit(call, task)

        yield from bounded(start, Future[R].result, chain(first, tasks), TASKS_EACH * cores)


def bounded(start: Callable[[T], B], result: Callable[[B], R], tasks: Iterable[T], limit: int) -> Iterator[R]:
    """The results of tasks that are started ahead, no more than `limit` of them."""
    begun: deque[B] = deque()
    for task in tasks:
        begun.append(start(task))
        if len(begun) >= limit:
            yield result(begun.popleft())
    while begun:
        yield result(begun.popleft())


class _Worker:
    """A process that does one task at a time."""

    def __init__(self) -> None:
        # -P: the current folder, where a user's random.py may be, is not on the path.
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, work: Callable[[T], R], task: T) -> R:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            _send(stdin, (work, task))
            error, result = pickle.load(stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as fault:
            raise ResourceError(
                f"a process that works on tiles was killed (exit code {self._process.wait()}), probably because memory "
                "is short; free some, or use a machine with more"
            ) from fault
        if error is not None:
            raise error
        found: R = result
        return found

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what it has not read is lost with it
                stream.close()


def serve() -> None:
    """Be a worker: do the tasks of standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent ends us
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # whatever prints must not write between the answers
        while True:
            try:
                work, task = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            answer: tuple[Exception | None, object]
            try:
                answer = None, work(task)
            except Exception as error:  # which the parent raises
                answer = error, None
            _send(answers, answer)


def _send(stream: IO[bytes], message: object) -> None:
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()
