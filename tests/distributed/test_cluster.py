"""The Ray cluster: which one is joined, what is started here, and what is known of its nodes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from saltray.distributed import cluster
from saltray.distributed.cluster import (
    ENVIRONMENT,
    SINGLE_MACHINE_ONLY,
    driver_resource,
    joins_cluster,
    nodes_possible,
    nodes_present,
    ray_cluster,
    set_environment,
)
from saltray.errors import ConfigError

DRIVER = """
import ray  # before saltray: Ray has read its environment then
import signal
from saltray.distributed.cluster import ray_cluster
with ray_cluster(num_cpus=1):
    print(ray.get_runtime_context().runtime_env["py_executable"])
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, ray.cluster_resources()["CPU"])
print(ray.is_initialized())
"""
GROWABLE = {
    "max_workers": 2,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 4}}, "unknown": {}},
}


@pytest.mark.ray
def test_a_ray_of_our_own_forks_its_workers_also_under_uv_run(tmp_path: Path) -> None:
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
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    executable, handler_and_cpus, connected = done.stdout.splitlines()
    assert "fork_server.py ask" in executable
    assert (handler_and_cpus, connected) == ("True 1.0", "False")


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_what_ray_reads_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RAY_TRAIN_METRICS_ENABLED": "1", "RAY_ADDRESS": address}
    monkeypatch.setattr(os, "environ", given.copy())
    set_environment()
    assert joins_cluster() == bool(address)
    left_out = SINGLE_MACHINE_ONLY if address else set()
    assert os.environ == {name: value for name, value in ENVIRONMENT.items() if name not in left_out} | given


def test_the_address_of_the_jobs_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ConfigError, match="RAY_ADDRESS is http://127.0.0.1:8265, which is for `ray job submit`"):
        ray_cluster().__enter__()


def test_a_signal_while_ray_starts_reaches_the_callers_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # as Ray does
        signal.raise_signal(signal.SIGTERM)

    received: list[int] = []
    monkeypatch.setattr("ray.init", init)
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        cluster._connect(ConfigError)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_versions_on_the_cluster_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
            "This process on 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(
        ConfigError, match=r"^Version .* Ray: 2.60.0 Python: 3.12.1 This .* Ray: 2.60.0 Python: 3.11.7$"
    ):
        cluster._connect(ConfigError)


def test_a_job_on_the_head_node_knows_what_the_cluster_can_grow_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(GROWABLE))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert nodes_possible() == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert nodes_possible() == [{"CPU": 0}, {"GPU": 4}, {"GPU": 4}]
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert nodes_possible() == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_ray_of_the_caller_is_used_and_left_as_it_is() -> None:
    import ray

    with ray_cluster(num_cpus=77) as where:
        assert where == "Ray on this machine"
    assert ray.is_initialized()
    (node,) = nodes_present()
    assert node["CPU"] == ray.cluster_resources()["CPU"] != 77


def test_dead_nodes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": name, "Alive": name == "a", "Resources": {"CPU": 1.0}} for name in ("a", "b")]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert nodes_present() == [{"CPU": 1.0}]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_resource_of_the_drivers_node_places_a_task_there() -> None:
    import ray

    name = driver_resource()
    assert name.startswith("node:")
    where = ray.remote(num_cpus=0, resources={name: 0.001})(lambda: ray.get_runtime_context().get_node_id())
    assert ray.get(where.remote(), timeout=60) == ray.get_runtime_context().get_node_id()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_trainers_are_killed_and_waited_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = ["controller"]
    asked: list[tuple[str, ...]] = []

    def live_actors(*classes: str) -> list[str]:
        asked.append(classes)
        return list(alive)

    def kill_actor(actor: str) -> None:
        alive.remove(actor)

    monkeypatch.setattr("saltray.distributed.ray_internals.live_actors", live_actors)
    monkeypatch.setattr("saltray.distributed.ray_internals.kill_actor", kill_actor)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: cluster.kill_trainers())
    cluster.wait_for_trainers(seconds)
    assert asked[0] == ("TrainController", "RayTrainWorker")
    assert alive == (["controller"] if seconds == 0 else [])
