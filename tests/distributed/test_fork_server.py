"""Workers by fork: they get their arguments, environment and streams, and ids of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltray.distributed.fork_server import fork_server

WORKER = """
import os, sys, threading
print(sys.argv[1:], os.environ["MARK"], os.getcwd(), "torch" in sys.modules)
assert os.getpgid(0) == os.getpid()
assert threading.current_thread() is threading.main_thread() and __name__ == "__main__"
from ray._raylet import JobID, PlacementGroupID
print(PlacementGroupID.of(JobID.from_int(1)).hex(), file=sys.stderr)
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
        timeout=120,
    )


def test_a_fork_is_what_was_asked_for_and_draws_ids_of_its_own(python: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    first = run(python, script, "a b", "--c=d", mark="one")
    second = run(python, script, mark="two")
    assert first.stdout == f"['a b', '--c=d'] one {tmp_path} True\n"
    assert second.stdout == f"[] two {tmp_path} True\n"
    assert len(first.stderr.strip()) == len(second.stderr.strip()) == 36
    assert first.stderr != second.stderr


def test_a_fork_imports_what_ray_train_needs_only_once(python: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nbefore = set(sys.modules)\nimport saltray.distributed.worker\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('ray')))\n"
    )
    new = run(python, script, mark="x").stdout.split()
    assert not {module.split(".")[0] for module in new} & {"torch", "torchvision", "pandas", "pyarrow", "numpy"}


def test_the_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    code = (
        "import os, subprocess\nfrom saltray.distributed.fork_server import fork_server\n"
        "with fork_server() as command:\n"
        "    print(command.split()[-1], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -9
    address = killed.stdout.strip()
    listing = "ps -eo args | grep -F 'fork_server serve' | grep -F " + address + " | grep -v grep"
    for _ in range(100):
        if not subprocess.run(listing, shell=True, capture_output=True, check=False).stdout:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    else:
        pytest.fail("the server outlived the process that started it")
