"""Ray's worker processes by fork, so that they share one import of torch and of most that Ray Train needs.

A fold takes three processes (Ray Train's controller, a helper, the rank), and on their own each spends up to 20 s of
CPU time on imports: on two cores that is minutes for five folds. Here one process imports everything once and forks
for each worker, which costs milliseconds and shares the memory too.

Ray starts a worker as `<py_executable> default_worker.py ...`; saltray names `python fork_server.py ask SOCKET` as that
executable. The asking process sends its arguments, environment and standard streams to the server, whose fork becomes
the worker; it stays until the worker ends, because Ray watches it until then. The server ends with the process that
started it. Only for a Ray of our own on this machine.

This file runs as a script too, and then may import nothing but the standard library: asking has to be quick.
"""

import errno
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MODULES = (
    # Not ray.train nor ray.data: importing them draws a random number in Ray's C++ core, and then all forks would draw
    # the same ids. What they import is most of their cost.
    "ray",
    "fsspec",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pydantic.v1",
    "requests",
    "rich.live",
    "safetensors.torch",
    "saltray.data.raw",
    "saltray.distributed.capacity",
    "saltray.ensemble.load",
    "saltray.models.albunet",
    "saltray.runs.fold_output",
    "saltray.runs.run",
    "saltray.search.results",
    "saltray.storage.arrow",
    "saltray.training.engine",
    "saltray.training.lr_range_test",
    "torch._dynamo",  # every optimiser imports it
)


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
def fork_server() -> Iterator[str]:
    """Run a server for the time of the block; yields what to give Ray as `py_executable`."""
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        address = f"{folder}/socket"
        command = [sys.executable, "-m", "saltray.distributed.fork_server", "serve", address]
        # In a group of its own, which Ctrl-C in a terminal does not reach: ending it is the driver's to do.
        with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as server:
            try:
                yield f"{sys.executable} -I -S {Path(__file__).resolve()} ask {address}"
            finally:
                server.terminate()  # its standard input would tell it too, but only when it has imported everything


def ask(address: str, argv: list[str]) -> None:
    """Have a worker forked for this process, and wait for its end."""
    request = json.dumps({"argv": argv, "cwd": str(Path.cwd()), "env": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        while (fault := connection.connect_ex(address)) != 0:
            # A driver that is killed leaves the folder behind.
            if fault == errno.ECONNREFUSED or not Path(address).parent.exists():
                sys.exit("the fork server has ended")
            signal.sigtimedwait([], 0.05)
        socket.send_fds(connection, [len(request).to_bytes(8)], [0, 1, 2])
        connection.sendall(request)
        # The worker holds the other end open for as long as it lives.
        connection.recv(1)


def serve(address: str) -> None:
    """Fork for each request, until standard input is closed, as it is when the driver has ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{address}.new")
        listener.listen(128)
        Path(f"{address}.new").rename(address)  # from now on it answers, or has ended
        worker = _fork_for_each(listener)
    if worker is not None:
        _become(worker)


def _fork_for_each(listener: socket.socket) -> Worker | None:
    """Returns in every fork what it is to become, and None in the server at its end."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while sys.stdin not in (ready := _ready(selector)):
            assert ready == [listener]
            connection, _ = listener.accept()
            header, streams, _, _ = socket.recv_fds(connection, 8, 3)
            with connection.makefile("rb") as incoming:
                request = json.loads(incoming.read(int.from_bytes(header)))
            _import_once(request["env"])
            if sys.stdin in _ready(selector, timeout=0):  # the driver ended while modules were imported
                break
            if os.fork() == 0:
                return Worker(**request, streams=streams, connection=connection.detach())
            connection.close()
            for stream in streams:
                os.close(stream)
    return None


def _ready(selector: selectors.BaseSelector, timeout: float | None = None) -> list[Any]:
    """What can be read from; waits for something unless given a timeout in seconds."""
    return [key.fileobj for key, _ in selector.select(timeout)]


def _import_once(env: dict[str, str]) -> None:
    """Import in the environment of the first worker: Ray reads its token and the job's number from it when imported."""
    if "ray" in sys.modules:
        return
    os.environ.update(env, OPENBLAS_NUM_THREADS="1")  # BLAS threads would not survive a fork
    for module in MODULES:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end leave no zombie


def _become(worker: Worker) -> None:
    """Turn this fork into the worker that was asked for."""
    os.setpgrp()  # Ray ends a worker by its process group
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, stream in enumerate(worker.streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.chdir(worker.cwd)
    os.environ.clear()
    os.environ.update(worker.env)
    import numpy as np

    np.random.seed()
    sys.argv = worker.argv
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", address]:
            serve(address)
        case ["ask", address, *argv]:
            ask(address, argv)
