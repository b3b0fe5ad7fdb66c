"""The image's health check, against a simulated agent."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "healthy.py"


class Agent(ThreadingHTTPServer):
    status = 200


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/api/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"raylet: success")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def ask(port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", str(SCRIPT), str(port)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_live_node_is_healthy_whatever_the_proxy(agent: Agent) -> None:
    assert ask(agent.server_port, http_proxy="http://127.0.0.1:9").returncode == 0


def test_an_unhealthy_node_prints_the_reason(agent: Agent) -> None:
    agent.status = 503
    done = ask(agent.server_port)
    assert (done.returncode, done.stderr) == (1, "503: raylet: success\n")


def test_a_missing_node_is_unhealthy(agent: Agent) -> None:
    port = agent.server_port
    agent.shutdown()
    agent.server_close()
    done = ask(port)
    assert done.returncode == 1
    assert done.stderr.startswith("no Ray node answers here")
