"""What is checked before anything trains on a cluster; several real hosts are in tests/cluster."""

import os
from pathlib import Path

import pytest

from saltray.config import ClusterConfig
from saltray.distributed import preflight as module
from saltray.distributed.capacity import Capacity, JobResources, Node
from saltray.distributed.preflight import check_cluster, check_store_uri, preflight
from saltray.errors import ConfigError, ResourceError
from saltray.progress import Event, StoreMustBeShared
from saltray.storage.base import Store
from saltray.storage.uri import open_store

NODE: Node = {"CPU": 2.0}


@pytest.mark.parametrize("uri", ["saltray-store", "./store", "../store"])
def test_a_folder_of_one_job_is_no_store_on_a_cluster(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_store_uri(uri)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=f"store {uri} is a folder in the working directory .*; use s3://"):
        check_store_uri(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/store", "/shared/store", "file:///shared/store"])
def test_a_store_that_all_nodes_may_share(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_store_uri(uri)


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """A run's part of a store, with the manifest that the driver writes first."""
    store = open_store(f"{tmp_path}/runs/r1")
    store.put_json("manifest.json", {})
    return store


def pretend(patch: pytest.MonkeyPatch, present: list[Node], possible: list[Node]) -> None:
    patch.setattr(module, "nodes_present", lambda: present)
    patch.setattr(module, "nodes_possible", lambda: possible)


def run_check(home: Store, cluster: ClusterConfig | None = None) -> tuple[Capacity, list[Event]]:
    events: list[Event] = []
    cluster = cluster or ClusterConfig(cpus_per_worker=1)
    return check_cluster(cluster, home, jobs=5, sharing=5, observer=events.append), events


def test_on_one_machine_the_capacity_is_counted(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE], [])
    assert run_check(home) == (Capacity(JobResources(1, 1, 0), 2, ready=2), [])
    with pytest.raises(ResourceError, match="3 ranks of 1 CPU"):
        run_check(home, ClusterConfig(workers_per_fold=3, cpus_per_worker=1))


def test_a_folder_on_a_cluster_that_can_grow_must_be_shared(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE], [NODE, NODE])
    assert run_check(home) == (Capacity(JobResources(1, 1, 0), 4, ready=2), [StoreMustBeShared(home.uri)])
    assert run_check(open_store("s3://bucket/runs/r1"))[1] == []


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that belongs to no cluster, on a machine of two CPUs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(module, "this_machine", lambda: NODE)
    return monkeypatch


def test_without_a_cluster_this_machine_is_judged(alone: pytest.MonkeyPatch) -> None:
    found = preflight(ClusterConfig(cpus_per_worker=1), jobs=5, sharing=5)
    assert (found.where, found.present, found.possible) == ("this machine", [NODE], [])
    assert found.capacity == Capacity(JobResources(1, 1, 0), 2, ready=2)
    with pytest.raises(ResourceError, match="3 ranks of 1 CPU"):
        preflight(ClusterConfig(workers_per_fold=3, cpus_per_worker=1), jobs=5, sharing=5)
    alone.setattr(module, "this_machine", lambda: pytest.fail("jobs run elsewhere"))
    planned = preflight(ClusterConfig(cpus_per_worker=1), jobs=5, sharing=5, planned=[NODE] * 2)
    assert (planned.where, planned.capacity.concurrency, planned.capacity.ready) == ("no cluster is connected", 4, 0)


def test_a_gpu_that_torch_cannot_use_is_told_unless_none_is_wanted(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(module, "gpu_fault", lambda: "found 1 x X, but torch is built without CUDA")
    for wanted in (None, 0.5, 1.0):
        with pytest.raises(ResourceError, match="this machine: found 1 x X, .*; install a torch that fits .* CPUs"):
            preflight(ClusterConfig(gpus_per_worker=wanted), jobs=5, sharing=5)
    assert preflight(ClusterConfig(gpus_per_worker=0), jobs=5, sharing=5).capacity.concurrency == 5


@pytest.mark.parametrize("value", ["0", "false", "False", ""])
def test_version_1_of_ray_train_is_refused(value: str, alone: pytest.MonkeyPatch) -> None:
    alone.setenv("RAY_TRAIN_V2_ENABLED", value)
    with pytest.raises(ConfigError, match=f"RAY_TRAIN_V2_ENABLED is '{value}', but .*; unset it"):
        preflight(ClusterConfig(), jobs=5, sharing=5)
    for fine in ("1", "true"):
        alone.setenv("RAY_TRAIN_V2_ENABLED", fine)
        preflight(ClusterConfig(), jobs=5, sharing=5)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_gpus_of_a_cluster_are_judged_on_their_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's node has none: its driver's answer is written for it, and its task must be the one that asks."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '9.0, NVIDIA H100'\n")
    smi.chmod(0o755)

    def ask() -> str | None:
        return module._gpu_fault_of_node()

    nodes = [{**node, "Resources": {**node["Resources"], "GPU": 1.0}} for node in module.live_nodes()] * 2
    monkeypatch.setattr(module, "live_nodes", lambda: nodes)
    path = f"{tmp_path}:{os.environ['PATH']}"

    def fault() -> str | None:
        os.environ["PATH"] = path
        return ask()

    monkeypatch.setattr(module, "_gpu_fault_of_node", fault)
    with pytest.raises(ResourceError, match=r"^[\d.]+: found 1 x NVIDIA H100, but torch .* cannot use it"):
        preflight(ClusterConfig(), jobs=5, sharing=5)
    assert preflight(ClusterConfig(gpus_per_worker=0), jobs=5, sharing=5).capacity.concurrency > 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_every_node_of_several_must_see_what_the_driver_wrote(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE, NODE], [])  # the session's Ray has one, which answers
    assert run_check(home)[0].ready == 4
    home.delete("manifest.json")
    with pytest.raises(ConfigError, match=r"is not the same folder on every node \([\d.]+: the files .* not visible\)"):
        run_check(home)
    monkeypatch.setattr(module, "CHECK_S", 0.0)
    with pytest.raises(ConfigError, match=r"\([\d.]+: no answer within 0 s\); use s3://"):
        run_check(home)
