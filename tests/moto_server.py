"""moto's S3 server, as a process."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep


@contextmanager
def moto_server() -> Iterator[str]:
    """Run a server without buckets for the time of the block; yields its endpoint."""
    # A process of its own: in this one, each use of moto's mocks would empty the buckets.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_open(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_until_open(port: int, seconds: float = 60) -> None:
    """Wait until a server of this machine takes connections."""
    end = monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert monotonic() < end, f"no server at port {port} after {seconds:g} s"
            sleep(0.05)
        else:
            return
