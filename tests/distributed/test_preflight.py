"""What is checked before anything trains on a cluster; several real hosts are in tests/cluster."""

from pathlib import Path

import pytest

from saltray.config import ClusterConfig
from saltray.distributed import preflight as module
from saltray.distributed.capacity import Capacity, JobResources, Node
from saltray.distributed.preflight import check_store_uri, preflight
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


def run_preflight(home: Store, cluster: ClusterConfig | None = None) -> tuple[Capacity, list[Event]]:
    events: list[Event] = []
    cluster = cluster or ClusterConfig(cpus_per_worker=1)
    return preflight(cluster, home, jobs=5, sharing=5, observer=events.append), events


def test_on_one_machine_the_capacity_is_counted(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE], [])
    assert run_preflight(home) == (Capacity(JobResources(1, 1, 0), 2, ready=2), [])
    with pytest.raises(ResourceError, match="3 ranks of 1 CPU"):
        run_preflight(home, ClusterConfig(workers_per_fold=3, cpus_per_worker=1))


def test_a_folder_on_a_cluster_that_can_grow_must_be_shared(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE], [NODE, NODE])
    assert run_preflight(home) == (Capacity(JobResources(1, 1, 0), 4, ready=2), [StoreMustBeShared(home.uri)])
    assert run_preflight(open_store("s3://bucket/runs/r1"))[1] == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_every_node_of_several_must_see_what_the_driver_wrote(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [NODE, NODE], [])  # the session's Ray has one, which answers
    assert run_preflight(home)[0].ready == 4
    home.delete("manifest.json")
    with pytest.raises(ConfigError, match=r"is not the same folder on every node \([\d.]+: the files .* not visible\)"):
        run_preflight(home)
    monkeypatch.setattr(module, "CHECK_S", 0.0)
    with pytest.raises(ConfigError, match=r"\([\d.]+: no answer within 0 s\); use s3://"):
        run_preflight(home)
