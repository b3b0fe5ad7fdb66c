"""`saltray ARGS` for tests: in this process, or as a process with all that belongs to it; and what both need."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from time import monotonic, sleep
from typing import NamedTuple

import boto3
import pytest

COMMAND = str(Path(sys.executable).with_name("saltray"))
WAIT_S = 240.0
"""Longest wait for a line of a live process; on a busy machine Ray alone takes a minute to start."""
END_S = 60.0
"""Longest wait for the end of a process that was told to end, and of all that belong to it."""


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


Saltray = Callable[..., Answer]


def require(reason: str | None) -> None:
    """Skip the test where something is missing on this machine; with SALTRAY_TEST_ALL set, fail it."""
    if reason is not None:
        (pytest.fail if os.environ.get("SALTRAY_TEST_ALL") else pytest.skip)(reason)


def s3_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    """The AWS_* variables for a server of this machine."""
    host = endpoint.partition("://")[2].rpartition(":")[0]
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": f"127.0.0.1,{host}",
    }


def point_to(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Let the AWS_* variables be these, and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)


def upload(folder: Path, uri: str) -> None:
    """Copy a folder's files below s3://bucket/prefix."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.session.Session().client("s3")
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")


def check_refusal(answer: Answer, *named: str) -> None:
    """Exit code 2, and one last line that names what is at fault."""
    assert answer.code == 2
    assert "Traceback" not in answer.out + answer.err
    lines = answer.err.splitlines()
    assert [line.startswith("saltray: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    for name in named:
        assert name in lines[-1]


class Process(NamedTuple):
    """One process, told from a later one of the same id by when it started."""

    pid: int
    started: str

    def title(self) -> str:
        """Its command line; empty once it has ended."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            return ""


class Live:
    """`saltray ARGS` as a process with a session of its own, and all the processes that belong to it."""

    def __init__(self, *args: object, home: Path) -> None:
        self.mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            # Whoever runs the tests may ignore SIGINT, as a shell makes its background jobs do.
            ["env", "--default-signal=INT", COMMAND, *map(str, args)],
            env=environment | {"SALTRAY_TEST_MARK": self.mark, "HOME": str(home)},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: Queue[str] = Queue()
        self.seen: list[str] = []
        """All lines that it printed, so far."""
        self._family: set[Process] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            self.lines.put(line)

    def wait_for(self, text: str) -> str:
        """The next line of its output that holds `text`."""
        end = monotonic() + WAIT_S
        seen = []
        while monotonic() < end:
            try:
                seen.append(self.lines.get(timeout=0.2))
            except Empty:
                if self.process.poll() is not None:
                    break
                continue
            if text in seen[-1]:
                return seen[-1]
        pytest.fail(f"no {text!r} in:\n{''.join(seen)}")

    def interrupt(self, number: signal.Signals) -> str:
        """Send the signal to this process alone, which must end as interrupted; the last line of its stderr."""
        self._family = self.family()
        assert len(self._family) > 5  # Ray's own and the workers, else there is nothing to see gone
        self.process.send_signal(number)
        code = self.process.wait(timeout=END_S)
        assert self.process.stderr is not None
        error = self.process.stderr.read()
        assert code == 130, error
        assert "Traceback" not in error
        return error.splitlines()[-1]

    def kill(self) -> None:
        """Kill this process alone, which cannot see it coming."""
        self._family = self.family()
        self.process.kill()
        self.process.wait(timeout=END_S)

    def left(self, *spared: str) -> set[str]:
        """What still lives of it, but for these titles, once those that are ending had the time for it."""
        end = monotonic() + END_S
        while True:
            left = {process.title() for process in (self._family & set(table())) | self.family()} - {"", *spared}
            if not left or monotonic() > end:
                return left
            sleep(0.1)

    def family(self) -> set[Process]:
        """Its descendants, its session, and all that have its mark in their environment."""
        processes = table()
        pids = {self.process.pid}
        found: set[Process] = set()
        while True:
            new = {
                process
                for process, (parent, session) in processes.items()
                if parent in pids or session == self.process.pid or self._has_mark(process.pid)
            } - found
            if not new:
                return found
            found |= new
            pids |= {process.pid for process in new}

    def _has_mark(self, pid: int) -> bool:
        try:
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it has ended
            return False

    def end(self) -> None:
        """Kill what a failed test left."""
        for process in self.family() | (self._family & set(table())):
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(timeout=END_S)


def table() -> dict[Process, tuple[int, int]]:
    """Parent and session of each process of this machine that has not ended."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] not in "ZX":
            found[Process(int(path.parent.name), fields[19])] = (int(fields[1]), int(fields[3]))
    return found
