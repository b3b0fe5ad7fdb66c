"""Our script that sets up a worker does what Ray's does, without importing Ray."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from saltray.distributed import setup_worker

RAYS = Path(ray.__file__).parent / "_private/workers/setup_worker.py"
WORKER = """
import os, sys
print(sys.argv[1:], {name: os.environ.get(name) for name in ("A", "B", "C")}, "extra" in sys._xoptions)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """Tells its arguments and environment; beside it is Ray's own script, which is told."""
    path = tmp_path / "a b" / "default_worker.py"
    path.parent.mkdir()
    path.write_text(WORKER)
    path.with_name("setup_worker.py").write_text("import sys\nprint('Ray sets up', sys.argv[1:])\n")
    return path


def run(script: Path, worker: Path, context: dict[str, Any] | None, language: str = "PYTHON") -> str:
    words = [str(worker), "--node=1 2", "--quote='\"", f"--language={language}"]
    if context is not None:
        words.append(f"--serialized-runtime-env-context={json.dumps(context)}")
    command = [sys.executable, str(script), *words]
    environment = os.environ | {"A": "1", "C": "3"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize(
    "context",
    [
        None,
        {},
        {"env_vars": {"A": "x:${A}", "B": "${A} ${NOTHING} $A", "C": ""}},
        {"py_executable": shlex.join([sys.executable, "-X", "extra"])},
    ],
)
def test_the_worker_is_that_of_rays_own_script(context: dict[str, Any] | None, worker: Path) -> None:
    told = run(Path(setup_worker.__file__), worker, context)
    assert told.startswith("['--node=1 2', ")
    assert told == run(RAYS, worker, context)


@pytest.mark.parametrize(
    ("context", "language"),
    [({"command_prefix": ["true", "&&"]}, "PYTHON"), ({"override_worker_entrypoint": "/x"}, "PYTHON"), ({}, "JAVA")],
)
def test_what_is_not_plain_python_is_left_to_ray(context: dict[str, Any], language: str, worker: Path) -> None:
    told = run(Path(setup_worker.__file__), worker, context, language)
    assert told.startswith("Ray sets up [")
    assert f"--language={language}" in told
    assert json.dumps(context) in told


def test_it_imports_the_standard_library_alone() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import setup_worker; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", script, str(Path(setup_worker.__file__).parent)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {*sys.stdlib_module_names, "__main__", "setup_worker"}
