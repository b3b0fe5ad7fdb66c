"""A real MLflow server, of an environment of its own: it needs other versions of libraries than saltray has."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERSION = "3.17.2"
START_S = 400.0
"""On a busy machine its imports alone take minutes."""


def missing() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("uv") else "uv is not installed"


def prepare(home: Path) -> Path:
    """The server's program, installed below this folder unless it is already."""
    program = home / VERSION / "bin" / "mlflow"
    if not program.exists():
        python = home / VERSION / "bin" / "python"
        subprocess.run(["uv", "venv", "--clear", "--no-config", str(home / VERSION)], check=True, capture_output=True)
        install = ["uv", "pip", "install", "--no-config", "--python", str(python), f"mlflow=={VERSION}"]
        subprocess.run(install, check=True, capture_output=True)
    return program


@contextmanager
def mlflow_server(program: Path, place: Path) -> Iterator[str]:
    """Run a server, whose data are in a folder, for the time of the block; yields its URI."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [str(program), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", f"{place}/artifacts"]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # A session of its own: it starts others, and the end of one does not end them.
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True) as server,
    ):
        try:
            end = monotonic() + START_S
            while not _answers(uri):
                assert server.poll() is None, (place / "log").read_text()
                assert monotonic() < end, f"no answer of {uri} after {START_S:g} s"
                sleep(0.2)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def runs_of(client: "MlflowClient", experiment: str) -> dict[str, Any]:
    """The runs of an experiment by name, of which each is there once."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    by_name = {str(run.info.run_name): run for run in runs}
    assert len(by_name) == len(runs)
    return by_name


def _answers(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
