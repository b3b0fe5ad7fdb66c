"""What is checked before anything trains on a cluster; several real hosts are in tests/cluster."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saltray.config import ClusterConfig
from saltray.distributed import cluster, paths
from saltray.distributed import preflight as module
from saltray.distributed.capacity import Capacity, JobResources, Node
from saltray.distributed.cluster import only_thread
from saltray.distributed.preflight import check_cluster, check_gpus, preflight
from saltray.errors import ConfigError, ResourceError
from saltray.progress import Event, StoreMustBeShared
from saltray.storage.base import Store
from saltray.storage.uri import open_store

NODE: Node = {"CPU": 2.0}


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """A run's part of a store, with the manifest that the driver writes first."""
    store = open_store(f"{tmp_path}/runs/r1")
    store.put_json("manifest.json", {})
    return store


def pretend(patch: pytest.MonkeyPatch, present: list[Node], possible: list[Node]) -> None:
    patch.setattr(module, "nodes_present", lambda: present)
    patch.setattr(module, "nodes_possible", lambda: possible)
    patch.setattr(paths, "live_nodes", lambda: present)


def run_check(home: Store, cluster: ClusterConfig | None = None) -> tuple[Capacity, list[Event]]:
    events: list[Event] = []
    cluster = cluster or ClusterConfig(cpus_per_worker=1)
    return check_cluster(cluster, home, jobs=5, observer=events.append), events


def test_on_one_machine_the_capacity_is_counted(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE], [])
    assert run_check(home) == (Capacity(JobResources(1, 1, 0), 2, ready=2), [])
    with pytest.raises(ResourceError, match="3 ranks of 1 CPU"):
        run_check(home, ClusterConfig(workers_per_fold=3, cpus_per_worker=1))


def test_every_node_of_several_must_see_what_the_driver_wrote(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE, NODE], [])
    monkeypatch.setattr(paths, "ask_nodes", lambda nodes, check, read: {"10.0.0.2": check(read)} if check(read) else {})
    assert run_check(home)[0].ready == 4
    home.delete("manifest.json")
    with pytest.raises(
        ConfigError, match=r"not every node sees .*/runs/r1 \(10\.0\.0\.2: .*manifest\.json: there is no"
    ):
        run_check(home)


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
    found = preflight(ClusterConfig(cpus_per_worker=1), jobs=5)
    assert (found.where, found.present, found.possible) == ("this machine", [NODE], [])
    assert found.capacity == Capacity(JobResources(1, 1, 0), 2, ready=2)
    with pytest.raises(ResourceError, match="3 ranks of 1 CPU"):
        preflight(ClusterConfig(workers_per_fold=3, cpus_per_worker=1), jobs=5)
    alone.setattr(module, "this_machine", lambda: pytest.fail("jobs run elsewhere"))
    planned = preflight(ClusterConfig(cpus_per_worker=1), jobs=5, planned=[NODE] * 2)
    assert (planned.where, planned.capacity.concurrency, planned.capacity.ready) == ("no cluster is connected", 4, 0)


def test_a_gpu_that_torch_cannot_use_is_told_unless_none_is_wanted(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(module, "gpu_fault", lambda: "found 1 x X, but torch is built without CUDA")
    for wanted in (None, 0.5, 1.0):
        with pytest.raises(ResourceError, match="this machine: found 1 x X, .*; install a torch that fits .* CPUs"):
            preflight(ClusterConfig(gpus_per_worker=wanted), jobs=5)
    assert preflight(ClusterConfig(gpus_per_worker=0), jobs=5).capacity.concurrency == 5


@pytest.mark.parametrize("value", ["0", "false", "False", ""])
def test_version_1_of_ray_train_is_refused(value: str, alone: pytest.MonkeyPatch) -> None:
    alone.setenv("RAY_TRAIN_V2_ENABLED", value)
    with pytest.raises(ConfigError, match=f"RAY_TRAIN_V2_ENABLED is '{value}', but .*; unset it"):
        preflight(ClusterConfig(), jobs=5)
    for fine in ("1", "true"):
        alone.setenv("RAY_TRAIN_V2_ENABLED", fine)
        preflight(ClusterConfig(), jobs=5)


def refuse() -> str | None:
    return "found 1 x X, but torch is built without CUDA"


def test_only_the_nodes_with_gpus_are_asked_of_them(alone: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(nodes: list[Any], check: Any) -> dict[str, str]:
        assert check is refuse
        asked.extend(node["NodeID"] for node in nodes)
        return {"10.0.0.2": "found 1 x X, but torch is built without CUDA"}

    nodes = [{"NodeID": name, "Resources": NODE | {"GPU": gpus}} for name, gpus in (("a", 0.0), ("b", 1.0))]
    alone.setattr("ray.is_initialized", lambda: True)
    alone.setattr(module, "gpu_fault", refuse)
    alone.setattr(module, "ray_cluster", lambda: nullcontext("the cluster"))
    alone.setattr(module, "live_nodes", lambda: nodes)
    alone.setattr(module, "ask_nodes", ask)
    pretend(alone, [NODE, NODE], [])
    with pytest.raises(ResourceError, match=r"^10\.0\.0\.2: found 1 x X, .*; install a torch that fits"):
        preflight(ClusterConfig(), jobs=5)
    with pytest.raises(ResourceError, match=r"^10\.0\.0\.2: found 1 x X, .*, or do without$"):
        check_gpus("do without")
    assert asked == ["b", "b"]
    assert preflight(ClusterConfig(gpus_per_worker=0), jobs=5).capacity.concurrency > 0
    del nodes[1]  # the only node of a cluster is judged as a machine without one
    with pytest.raises(ResourceError, match=r"^this machine: found 1 x X"):
        check_gpus("do without")


def test_a_second_thread_is_refused(alone: pytest.MonkeyPatch) -> None:
    """Before anything is written, which the first one may be about to read."""
    alone.setattr(cluster, "_one_thread", threading.RLock())
    settings = ClusterConfig(cpus_per_worker=1)
    with ThreadPoolExecutor() as pool, only_thread():
        preflight(settings, jobs=5)
        for check in (partial(preflight, settings, jobs=5), partial(check_gpus, "do without")):
            with pytest.raises(ResourceError, match="another thread of this process"):
                pool.submit(check).result()
