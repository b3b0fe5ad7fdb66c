"""Ray's worker processes by fork, so that they share one import of torch and of most that Ray Train needs.

A fold takes three processes (Ray Train's controller, a helper, the rank), and on their own each spends up to 20 s of
CPU time on imports: on two cores that is minutes for five folds. Here one process imports everything once and forks
for each worker, which costs milliseconds and shares the memory too.

Ray starts a worker as `<py_executable> default_worker.py ...`; saltray names `python fork_server.py ask SOCKET` as that
executable. The asking process sends its arguments, environment and standard streams to the server, whose fork becomes
the worker; it stays until the worker ends, because Ray watches it until then. Where no fork comes, for one since the
server was killed, the asking process becomes the worker itself: slower, and no less right. The server ends with the
process that started it. Only for a Ray of our own on this machine.

This file runs as a script too, and then may import nothing but the standard library: asking has to be quick. No process
has the current folder on its import path, where a user's `random.py` would take the place of Python's.
"""

import fcntl
import importlib
import json
import logging
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ANSWER_S = 120.0
"""Seconds that a worker waits for its fork, before it starts on its own: the server's imports come first."""
REQUEST_S = 10.0
"""Seconds that the server waits for a request that was begun, and for its fork to be wanted still."""
QUEUE = 4096
"""Requests that may wait; a node of many cores starts as many workers at once."""
PREFIX = "saltray-fork-"
"""Of the name of a server's folder."""
LOCK = "lock"
"""File in it that is locked for as long as the process that started the server lives."""
MODULES = (
    # Not ray.train nor ray.data: importing them draws a random number in Ray's C++ core, and then all forks would draw
    # the same ids. What they import is most of their cost.
    "fsspec",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pydantic.v1",
    "requests",
    "rich.live",
    "safetensors.torch",
    "saltray.data.tile_reader",
    "saltray.distributed.capacity",
    "saltray.ensemble.load",
    "saltray.models.albunet",
    "saltray.runs.fold_output",
    "saltray.runs.initial_weights",
    "saltray.runs.pretraining",
    "saltray.runs.pseudo_labels",
    "saltray.runs.run",
    "saltray.search.results",
    "saltray.storage.arrow",
    "saltray.training.device_memory",
    "saltray.training.engine",
    "saltray.training.host_memory",
    "saltray.training.lr_range_test",
    "torch._dynamo",  # every optimiser imports it
)
"""What workers share; imported while Ray starts."""
OF_THE_JOB = ("ray",)
"""What reads its token and the job's number from the environment when it is imported: with the first worker's."""


class Worker(NamedTuple):
    """What a fork is to become."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    streams: list[int]
    """File descriptors of its standard input, output and error."""
    connection: int
    """File descriptor that it holds until it ends: its end tells the asking process."""


@contextmanager
def fork_server(base: Path) -> Iterator[str]:
    """Run a server for the time of the block; yields what to give Ray as `py_executable`, as words of a shell.

    Args:
        base: folder for its socket, whose path has to be short.
    """
    with _folder(base) as folder:
        address, log = f"{folder}/socket", folder / "log"
        with _started(address, log) as server:
            try:
                yield shlex.join([sys.executable, "-I", "-S", str(Path(__file__).resolve()), "ask", address])
            finally:
                if server.poll() is not None:
                    logging.getLogger(__name__).warning(_ended_early(server.returncode, log))
                server.kill()  # it has nothing to save, and this ends one that is stopped, too


@contextmanager
def _folder(base: Path) -> Iterator[Path]:
    """A folder for a socket and a log, locked until it is removed; those that killed processes have left go first."""
    for left in base.glob(f"{PREFIX}*"):
        with suppress(OSError):  # a living process has locked it, or it is another user's
            # A folder is locked before it gets its socket.
            if (left / "socket").is_socket() and left.stat().st_uid == os.geteuid():
                with (left / LOCK).open("r+b") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    with (folder / LOCK).open("wb") as lock:
        with suppress(OSError):  # without locks on this file system, what is left there stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            with suppress(OSError):  # somebody has cleared the folder for temporary files
                _remove(folder)


def _remove(folder: Path) -> None:
    for name in ("log", "socket", LOCK):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _started(address: str, log: Path) -> subprocess.Popen[bytes]:
    """A server that holds the only listening socket: it takes requests from now on, and whoever asks sees its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, log.open("wb") as output:
        listener.bind(address)
        listener.listen(QUEUE)
        # In a group of its own, which Ctrl-C in a terminal does not reach: ending it is the driver's to do.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "saltray.distributed.fork_server", "serve", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            process_group=0,
        )


def _ended_early(code: int, log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:  # somebody has cleared the folder for temporary files
        lines = []
    said = next((line for line in reversed(lines) if line), f"exit code {code}")
    reason = f"signal {-code}" if code < 0 else said
    return f"the server that forks worker processes has ended ({reason}); workers start on their own, slower"


def ask(address: str, argv: list[str]) -> None:
    """Have a worker forked for this process, and wait for its end; without a fork, become the worker."""
    if not _forked(address, argv):
        os.execv(sys.executable, [sys.executable, *argv])


def _forked(address: str, argv: list[str]) -> bool:
    """Whether a fork was the worker; returns at its end."""
    try:
        cwd = str(Path.cwd())
    except OSError:  # it was deleted
        return False
    request = json.dumps({"argv": argv, "cwd": cwd, "env": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(address)
            socket.send_fds(connection, [len(request).to_bytes(8)], [0, 1, 2])
            connection.sendall(request)
            if not connection.recv(1):
                return False
            connection.sendall(b"+")  # only now it becomes the worker: never two of them, nor none
        except OSError:  # the server has ended, or does not answer
            return False
        connection.settimeout(None)
        connection.recv(1)  # the worker holds the other end open for as long as it lives
    return True


def serve(listener: socket.socket) -> None:
    """Fork for each request, until standard input is closed, as it is when the driver has ended."""
    with listener:
        worker = _fork_for_each(listener)
    if worker is not None:
        _become(worker)


def _fork_for_each(listener: socket.socket) -> Worker | None:
    """Returns in every fork what it is to become, and None in the server at its end."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # BLAS threads would not survive a fork
        for module in MODULES:
            if sys.stdin in _ready(selector, timeout=0):  # the driver has ended
                return None
            importlib.import_module(module)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end leave no zombie
        while sys.stdin not in (ready := _ready(selector)):
            assert ready == [listener]
            connection, _ = listener.accept()
            with connection:
                worker = _request(connection)
                if worker is None:
                    continue
                os.environ.update(worker.env)
                for module in OF_THE_JOB:
                    importlib.import_module(module)
                # Python 3.12 and later warn of a second thread in the log: it is jemalloc's, which provides for forks.
                if os.fork() == 0:
                    if not _wanted(connection):
                        os.kill(os.getpid(), signal.SIGKILL)  # what was imported must not act at its end
                    connection.detach()  # it stays open
                    return worker
                for stream in worker.streams:
                    os.close(stream)
    return None


def _request(connection: socket.socket) -> Worker | None:
    """What is asked for; None if whoever asked died meanwhile."""
    connection.settimeout(REQUEST_S)
    streams: list[int] = []
    try:
        header, streams, _, _ = socket.recv_fds(connection, 8, 3)
        with connection.makefile("rb") as incoming:
            return Worker(
                **json.loads(incoming.read(int.from_bytes(header))), streams=streams, connection=connection.fileno()
            )
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        return None


def _wanted(connection: socket.socket) -> bool:
    """Whether the process that asked still waits for this fork."""
    try:
        connection.sendall(b"+")
        return connection.recv(1) != b""
    except OSError:
        return False


def _ready(selector: selectors.BaseSelector, timeout: float | None = None) -> list[Any]:
    """What can be read from; waits for something unless given a timeout in seconds."""
    return [key.fileobj for key, _ in selector.select(timeout)]


def _become(worker: Worker) -> None:
    """Turn this fork into the worker that was asked for."""
    os.setpgrp()  # Ray ends a worker by its process group
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, stream in enumerate(worker.streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    with suppress(OSError):  # it was deleted meanwhile: Ray needs no folder, and a worker's own code tells if it does
        os.chdir(worker.cwd)
    os.environ.clear()
    os.environ.update(worker.env)
    import numpy as np

    np.random.seed()
    sys.argv = worker.argv
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", descriptor]:
            serve(socket.socket(fileno=int(descriptor)))
        case ["ask", address, *argv]:
            ask(address, argv)
