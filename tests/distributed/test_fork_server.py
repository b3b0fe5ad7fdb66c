"""Workers by fork: they get their arguments, environment and streams, and ids of their own; without a server, too."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path

import pytest

from saltray.distributed.fork_server import PREFIX, fork_server

WORKER = """
import os, sys, threading
print(sys.argv[1:], os.environ["MARK"], os.getcwd())
print(*(name in sys.modules for name in ("torch", "pyarrow", "ray", "ray.train", "ray.data")))
assert os.getpgid(0) == os.getpid()
assert threading.current_thread() is threading.main_thread() and __name__ == "__main__"
from ray._raylet import JobID, PlacementGroupID
import numpy
print(PlacementGroupID.of(JobID.from_int(1)).hex(), numpy.random.rand(), file=sys.stderr)
"""
SHARED = {"numpy", "pandas", "pyarrow", "safetensors", "torch", "torchvision"}
"""What takes long to import, and what a worker therefore must not import itself."""
KILLED_DRIVER = """
import os, sys
from pathlib import Path
from saltray.distributed.fork_server import fork_server
with fork_server(Path(sys.argv[1])) as command:
    print(command, flush=True)
    os.kill(os.getpid(), 9)
"""
IMPATIENT = (
    "import sys; from saltray.distributed import fork_server as m; m.ANSWER_S = 0.1; m.ask(sys.argv[1], sys.argv[2:])"
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that was started in an analyst's folder; its own folder has a blank in its name."""
    here = tmp_path_factory.mktemp("here")
    for name in ("random", "queue", "numpy", "signal", "requests"):
        (here / f"{name}.py").write_text("raise SystemExit('not the one you want')")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="a b", dir="/tmp")))
        with chdir(here):
            command = stack.enter_context(fork_server(base))
        yield command


def run(python: str, script: Path, *args: str, mark: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", shlex.join(["exec", *shlex.split(python), str(script), *args])],
        env=os.environ | {"MARK": mark},
        cwd=script.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )


def server_of(python: str) -> list[int]:
    """The process that serves those who ask so; none if it has ended."""
    log, found = Path(shlex.split(python)[-1]).parent / "log", []
    for stdout in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if stdout.readlink() == log:
                found.append(int(stdout.parts[2]))
        except OSError:  # it has ended
            continue
    return found


def test_a_fork_is_what_was_asked_for_and_draws_ids_of_its_own(python: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    first = run(python, script, "a b", "--c=d", mark="one")
    second = run(python, script, mark="two")
    # ray.train and ray.data would draw the random number from which all forks get the same ids.
    modules = "True True True False False"
    assert first.stdout.splitlines() == [f"['a b', '--c=d'] one {tmp_path}", modules]
    assert second.stdout.splitlines() == [f"[] two {tmp_path}", modules]
    (one, a), (two, b) = first.stderr.split(), second.stderr.split()
    assert len(one) == len(two) == 36
    assert one != two
    assert a != b


def test_a_fork_imports_no_large_library_itself(python: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nbefore = set(sys.modules)\n"
        "import saltray.distributed.worker, saltray.distributed.trial, saltray.distributed.prediction\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('ray')))\n"
    )
    new = run(python, script, mark="x").stdout.split()
    assert not [module for module in new if module.split(".")[0] in SHARED]
    own = {module for module in new if module.startswith("saltray")}
    assert "saltray.distributed.worker" in own
    # What imports ray.train or ray.data is in this room, and the rest is shared.
    assert not [module for module in own if not module.startswith("saltray.distributed")]


def wait_for_end(process: int) -> None:
    """Wait until a child of ours has ended; its exit code is left for whoever started it."""
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A worker that tells whether it is a fork, in a file too, and ends when its standard input does."""
    path = tmp_path / "script.py"
    path.write_text(
        "import sys\n"
        "said = f\"{'torch' in sys.modules} {sys.argv[1:]}\"\n"
        "with open('started', 'a') as file: print(said, file=file)\n"
        "print(said, flush=True)\n"
        "print(sys.stdin.read())\n"
    )
    return path


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder of a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def killed_driver(base: Path) -> str:
    """The command of a server whose driver was killed."""
    command = [sys.executable, "-c", KILLED_DRIVER, str(base)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert killed.returncode == -9
    return killed.stdout.strip()


def test_the_server_ends_with_whoever_started_it_and_who_asks_then_starts_alone(script: Path, base: Path) -> None:
    python = killed_driver(base)
    end = time.monotonic() + 60
    while server_of(python):
        assert time.monotonic() < end, "the server outlived the process that started it"
        time.sleep(0.1)
    assert Path(shlex.split(python)[-1]).exists()  # nobody was left to delete it
    assert run(python, script, "a b").stdout.splitlines()[0] == "False ['a b']"


def test_the_next_start_removes_what_killed_drivers_have_left(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(command: str) -> Path:
        return Path(shlex.split(command)[-1]).parent

    dead = folder(killed_driver(base))
    fresh, own = base / f"{PREFIX}new", base / "saltray-demo"  # one of another start that is about to lock it; a user's
    fresh.mkdir()
    own.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    with fork_server(base):
        assert dead.exists()  # it is another user's
    monkeypatch.undo()
    with fork_server(base) as living:
        assert {*base.iterdir()} == {folder(living), fresh, own}
        with fork_server(base):
            assert folder(living).exists()
    assert {*base.iterdir()} == {fresh, own}


def test_without_a_server_a_worker_starts_alone_which_is_told(script: Path, caplog: pytest.LogCaptureFixture) -> None:
    with fork_server(Path("/tmp")) as python:
        (server,) = server_of(python)
        os.kill(server, signal.SIGKILL)
        wait_for_end(server)
        assert run(python, script, "a b").stdout.splitlines()[0] == "False ['a b']"
    assert "has ended (signal 9); workers start on their own, slower" in caplog.text
    assert run(python, script).stdout.splitlines()[0] == "False []"  # its folder is gone, too


def test_a_server_that_cannot_import_tells_why_and_no_worker_waits_for_it(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "fsspec.py").write_text("raise ImportError('torn')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with fork_server(Path("/tmp")) as python:
        (server,) = server_of(python)
        assert run(python, script).stdout.splitlines()[0] == "False []"
        wait_for_end(server)
    assert "has ended (ImportError: torn)" in caplog.text


def test_a_stopped_server_is_waited_for_no_longer_than_that_and_its_late_fork_does_nothing(
    script: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fork_server(Path("/tmp")) as python:
        (server,) = server_of(python)
        os.kill(server, signal.SIGSTOP)
        impatient = [sys.executable, "-c", IMPATIENT, shlex.split(python)[-1], str(script)]
        # The stopped server is sent copies of these streams; pipes would stay open.
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(impatient, cwd=script.parent, check=True, timeout=60, **quiet)
        os.kill(server, signal.SIGCONT)
        run(python, script)  # the server takes requests in order
        assert (script.parent / "started").read_text() == "False []\nTrue []\n"
        os.kill(server, signal.SIGSTOP)
    assert server_of(python) == []
    assert caplog.text == ""


def test_a_fork_outlives_the_server_and_ends_with_its_own_work(script: Path) -> None:
    with fork_server(Path("/tmp")) as other:
        asking = subprocess.Popen(
            [*shlex.split(other), str(script)],
            cwd=script.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert asking.stdout is not None
        assert asking.stdout.readline() == "True []\n"
    assert server_of(other) == []
    assert asking.poll() is None
    assert asking.communicate("done", timeout=60) == ("done\n", None)
    assert (script.parent / "started").read_text() == "True []\n"


def test_a_worker_whose_folder_was_deleted_starts_alone(python: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('torch' in sys.modules, sys.argv[1:])\n")
    ask = shlex.join([*shlex.split(python), str(script), "a b"])
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["bash", "-c", f"rmdir ../gone; exec {ask}"],
        cwd=tmp_path / "gone",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False ['a b']\n", "")


def asked(python: str, request: bytes, *, length: int) -> bytes:
    """What the worker prints that is asked for in the way of the server's own client; nothing where there is none."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as printed, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(shlex.split(python)[-1])
        with Path(os.devnull).open() as nothing:
            socket.send_fds(connection, [length.to_bytes(8)], [nothing.fileno(), write, write])
        os.close(write)
        connection.sendall(request)
        if len(request) < length:  # the asker dies in the midst of it
            connection.close()
        elif connection.recv(1):
            connection.sendall(b"+")
        assert select.select([printed], [], [], 240)[0], "the streams stay open"
        return printed.read()


def test_a_fork_whose_folder_was_deleted_meanwhile_works_in_another(python: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('torch' in sys.modules, sys.argv[1:])\n")
    worker = {"argv": [str(script), "a"], "cwd": str(tmp_path / "gone"), "env": dict(os.environ)}
    request = json.dumps(worker).encode()
    assert asked(python, request, length=len(request)) == b"True ['a']\n"


def test_an_asker_that_dies_leaves_no_stream_open_in_the_server(python: str) -> None:
    assert asked(python, b'{"argv": [', length=100) == b""
