"""A Ray cluster on several hosts, created by `ray up` from the project's own cluster.yaml."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
import yaml
from ceph import free_ports

from saltray.distributed import fork_server

from .hosts import Host, Hosts, end, wait_until

BIN = Path(sys.executable).parent
SHIPPED = Path(__file__).parents[2] / "cluster.yaml"
QUICK = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_health_check_period_ms": "1000",  # a host counts as lost after five failures; each has its default time-out
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # workers without a head end after that
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a controller takes one report of an epoch each time
}
"""Settings of Ray on every host that are shorter than the defaults, so that the tests wait less."""
SOCKET = "/tmp/ray/fork-server"
"""Of the fork server of a host; each host has a /tmp/ray of its own."""
SERVE = (
    # Not Ray: it reads the number of its job when it is imported, and one server forks the workers of all jobs.
    "import socket; from saltray.distributed import fork_server as server; server.OF_THE_JOB = (); "
    f"listener = socket.socket(socket.AF_UNIX); listener.bind({SOCKET!r}); listener.listen(server.QUEUE); "
    "server.serve(listener)"
)
FORKED = {"py_executable": f"{sys.executable} -I -S {fork_server.__file__} ask {SOCKET}"}
"""Runtime environment of a job whose workers are forked, as those of a Ray on one machine are."""

THIN = (
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--train.batch-size", "4", "--train.precision", "fp32"),
    *("--optim.ema-decay", "0.5", "--train.checkpoint-every", "0", "--workers-per-fold", "2"),
)
"""Flags of a small network on pairs of ranks, with a checkpoint each epoch."""
PLACES = re.compile(r"fold (\d)  runs on (.*)")
EPOCH = re.compile(r"fold (\d)  epoch +(\d+)/")
DONE = re.compile(r"fold (\d)  done")


class Cluster:
    """Context manager: a Ray cluster of a head node and workers.

    Args:
        hosts: the head first; they are booted here.
        environment: of every login shell on the hosts.
        cpus: logical CPUs of each worker.

    Attributes:
        address: of the Jobs API, through an SSH tunnel, as for a user.
        is_down: whether `down` was called.
    """

    def __init__(self, hosts: Hosts, environment: Mapping[str, str], *, cpus: int) -> None:
        self.hosts = hosts
        self._file = hosts.folder / "cluster.yaml"
        self._environment = {"RAY_JOB_STOP_WAIT_TIME_S": "30"} | dict(environment)  # as in cluster.yaml
        self._cpus = cpus
        self._home = hosts.folder / "user"
        (self._port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self._port}"
        self._tunnel: subprocess.Popen[str] | None = None
        self._fork_servers: list[subprocess.Popen[bytes]] = []
        self.is_down = False

    def __enter__(self) -> Self:
        self._home.mkdir()
        for number, host in enumerate(self.hosts):
            resources = {"CPU": self._cpus if number else 0}
            override = {"RAY_OVERRIDE_RESOURCES": json.dumps(resources)}  # as the autoscaler does it on AWS
            self.hosts.boot(host, self._environment | override)
        self._file.write_text(yaml.safe_dump(self._config()))
        self.ray("get-auth-token", "--generate")
        self.ray("up", "--yes", str(self._file))
        self._tunnel = self.start("dashboard", str(self._file), "--port", str(self._port))
        try:
            wait_until(self._has_all_nodes, 120, lambda: "not all nodes have joined")
        except BaseException:
            self._end_tunnel()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_own()

    def down(self) -> None:
        """End what the tests started beside Ray, then `ray down`."""
        self._end_own()
        self.ray("down", "--yes", str(self._file))
        self.is_down = True

    def _end_own(self) -> None:
        self._end_tunnel()
        for server in self._fork_servers:
            assert server.stdin is not None
            server.stdin.close()  # ends it
        for server in self._fork_servers:
            server.wait(20)
        self._fork_servers = []

    def _end_tunnel(self) -> None:
        if self._tunnel is not None:
            os.killpg(self._tunnel.pid, signal.SIGINT)  # Ctrl-C, as a user does it
            self._tunnel.wait(20)
            self._tunnel = None

    def _config(self) -> dict[str, Any]:
        """The project's cluster.yaml with these hosts in place of AWS's machines, and no containers."""
        config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
        for key in ("available_node_types", "head_node_type", "docker", "initialization_commands", "max_workers"):
            del config[key]
        head, *workers = (host.address for host in self.hosts)
        # Ray's autoscaler counts the head as one of this provider's workers, and so starts one of them less.
        spare = head.rpartition(".")[0] + ".250"
        config["provider"] = {"type": "local", "head_ip": head, "worker_ips": [*workers, spare]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.hosts.key)}
        return config

    def _has_all_nodes(self) -> bool:
        try:
            return len(self.table("nodes")) == len(list(self.hosts))
        except OSError:  # the head does not answer yet
            return False

    def environment(self, *, token: bool = True) -> dict[str, str]:
        """Environment of a user's shell: with the token in the home folder, or without authentication."""
        mine = {"HOME": str(self._home), "TMPDIR": str(self._home), "RAY_USAGE_STATS_ENABLED": "0"}
        mine["PATH"] = f"{BIN}:{os.environ['PATH']}"
        mine["RAY_AUTH_MODE"] = "token" if token else "disabled"
        theirs = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")  # of a Ray that other tests in this process have started
        return {name: value for name, value in os.environ.items() if name not in theirs} | mine

    def start(self, *args: str, token: bool = True) -> "subprocess.Popen[str]":
        """`ray ARGS` in the background."""
        return subprocess.Popen(
            [str(BIN / "ray"), *args],
            env=self.environment(token=token),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ray(self, *args: str) -> str:
        """Run `ray ARGS`; what it printed."""
        process = self.start(*args)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        return out

    def table(self, kind: str) -> list[dict[str, Any]]:
        """Ray's state of nodes, actors or placement_groups."""
        request = urllib.request.Request(f"{self.address}/api/v0/{kind}?limit=1000")
        request.add_header("Authorization", f"Bearer {(self._home / '.ray/auth_token').read_text()}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            rows: list[dict[str, Any]] = json.load(reply)["data"]["result"]["result"]
        return rows

    def submit(self, name: str, *args: object, folder: Path | None = None, forked: bool = True) -> "Job":
        """`ray job submit -- saltray ARGS`, followed to its end.

        Args:
            name: of the job.
            args: of saltray.
            folder: a copy of it is the job's working folder.
            forked: whether its workers are forks of a process that has imported torch; otherwise each spends 4 s of
                CPU time on imports.
        """
        command = ["job", "submit", "--address", self.address, "--submission-id", name]
        command += [] if folder is None else ["--working-dir", str(folder)]
        if forked:
            command += ["--runtime-env-json", json.dumps(FORKED)]
            if not self._fork_servers:
                self._fork_servers = [self.hosts.start(host, sys.executable, "-c", SERVE) for host in self.hosts]
            # Without a server workers start on their own, so that nothing but time would tell.
            assert self._fork_servers[0].poll() is None, "the head's fork server has ended"
        return Job(name, self.start(*command, "--", "saltray", *map(str, args)))

    def stop(self, name: str) -> None:
        """`ray job stop`."""
        self.ray("job", "stop", "--address", self.address, name)

    def host_at(self, address: str) -> Host:
        """The host of an address."""
        return next(host for host in self.hosts if host.address == address)


class Line(NamedTuple):
    """A line of a job's log, and when it arrived."""

    at: float
    text: str


class Job:
    """A submitted job, and its log so far."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name = name
        self.lines: list[Line] = []
        self._process = process
        self._queue: Queue[Line] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(Line(monotonic(), line.rstrip()))

    @property
    def log(self) -> str:
        """All lines so far."""
        return "\n".join(line.text for line in self.lines)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = 400) -> None:
        """Read its log until `holds`, which looks at the lines so far."""
        limit = monotonic() + seconds
        while not holds():
            try:
                self.lines.append(self._queue.get(timeout=0.2))
            except Empty:
                if monotonic() > limit or (self._process.poll() is not None and self._queue.empty()):
                    pytest.fail(f"no {what} in:\n{self.log}")

    def wait_for(self, text: str, seconds: float = 400) -> str:
        """The next line of its log that holds `text`."""
        seen = len(self.lines)
        self.wait_until(lambda: len(self.lines) > seen and text in self.lines[-1].text, repr(text), seconds)
        return self.lines[-1].text

    def wait(self, seconds: float = 600) -> int:
        """Wait for its end; the exit code of `ray job submit`."""
        try:
            code = self._process.wait(seconds)
        finally:
            if self._process.poll() is None:
                end(self._process)
            self._reader.join(20)
            while not self._queue.empty():
                self.lines.append(self._queue.get())
        return code


class Progress:
    """How far the folds of a job are, by its log so far."""

    def __init__(self, job: Job) -> None:
        self.starts: dict[int, list[set[str]]] = {}
        """Addresses of the hosts of each fold, for each time that it was started."""
        self.epochs: dict[int, int] = {}
        self.done: set[int] = set()
        for line in job.lines:
            if match := PLACES.match(line.text):
                self.starts.setdefault(int(match[1]), []).append(set(match[2].split(", ")))
            elif match := EPOCH.match(line.text):
                self.epochs[int(match[1])] = int(match[2])
            elif match := DONE.match(line.text):
                self.done.add(int(match[1]))

    def training_on(self, address: str) -> set[int]:
        """Folds that train on a host."""
        return {fold for fold, starts in self.starts.items() if address in starts[-1]} - self.done

    def may_lose(self, address: str, before: int) -> bool:
        """Whether a host may be lost now: some folds train on it, each with a checkpoint and far from its end, not all.

        Args:
            address: of a host.
            before: an epoch that no fold on it has reached.

        Returns:
            False, too, unless one of the folds has ranks on two hosts.
        """
        hit = self.training_on(address)
        others = set(self.starts) - self.done - hit
        spread = any(len(starts[0]) == 2 for starts in self.starts.values())
        return spread and bool(hit and others) and all(2 <= self.epochs.get(fold, 0) < before for fold in hit)
