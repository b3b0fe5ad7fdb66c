"""The Ray that saltray starts on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import ray  # before saltray: Ray has read its environment then
from saltray.distributed.runtime import ray_cluster
with ray_cluster(num_cpus=1):
    print(ray.get_runtime_context().runtime_env["py_executable"])
"""


@pytest.mark.ray
def test_workers_are_forks_also_under_uv_run(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    # Ray looks for an ancestor with the command line `uv run ...`.
    (tmp_path / "run").write_text(f"{sys.executable} driver.py\nexit $?\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "UV_"))}
    done = subprocess.run(
        ["bash", "-c", "exec -a uv bash run"],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fork_server.py ask" in done.stdout
