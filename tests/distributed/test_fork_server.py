"""Workers by fork: they get their arguments, environment and streams, and ids of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltray.distributed import fork_server as module
from saltray.distributed.fork_server import fork_server

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
import os
from saltray.distributed.fork_server import fork_server
with fork_server() as command:
    print(command.split()[-1], flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with fork_server() as command:
        yield command


def run(python: str, script: Path, *args: str, mark: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python.split(), str(script), *args],
        env=os.environ | {"MARK": mark},
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )


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


def test_the_server_ends_with_whoever_started_it_and_asking_it_then_fails() -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_DRIVER], capture_output=True, text=True, timeout=240, check=False
    )
    assert killed.returncode == -9
    address = killed.stdout.strip()
    end = time.monotonic() + 60
    while servers_at(address):
        assert time.monotonic() < end, "the server outlived the process that started it"
        time.sleep(0.1)
    assert Path(address).exists()  # nobody was left to delete it
    ask = [sys.executable, "-I", "-S", module.__file__, "ask", address, "worker.py"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "the fork server has ended\n")


def servers_at(address: str) -> list[Path]:
    """Processes that serve at this address."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if words[-3:-1] == ["serve", address]:
            found.append(path)
    return found


def test_asking_a_server_that_has_ended_fails() -> None:
    with fork_server() as command:
        pass
    done = subprocess.run(
        [*command.split(), "worker.py"], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (1, "the fork server has ended\n")
