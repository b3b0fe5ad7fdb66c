"""The nodes of a cluster: what is known of them, and what each answers; several real hosts are in tests/cluster."""

from pathlib import Path

import pytest
import yaml

from saltray.distributed import nodes as module
from saltray.distributed.nodes import (
    LiveNode,
    ask_nodes,
    driver_resource,
    faults_in_words,
    live_nodes,
    nodes_possible,
    nodes_present,
)

GROWABLE = {
    "max_workers": 2,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 4}}, "unknown": {}},
}


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
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user may have no entry either
    assert nodes_possible() == []


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


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_each_node_is_asked_in_a_process_of_its_own() -> None:
    """A check that finds a fault, one that finds none, one that cannot run; and a node that has died."""

    def check(found: str | None) -> str | None:
        if found == "raise":
            raise ModuleNotFoundError("No module named 'saltray'")
        import os

        return found and f"{found} {os.getpid()}"

    (node,) = live_nodes()
    address = node["NodeManagerAddress"]
    assert ask_nodes([node], check, None) == {}
    assert ask_nodes([], check, "never") == {}
    (first,), (second,) = (ask_nodes([node], check, "a").values() for _ in range(2))
    assert first.startswith("a ")
    assert first != second
    assert ask_nodes([node], check, "raise") == {address: "ModuleNotFoundError: No module named 'saltray'"}
    dead: LiveNode = {**node, "NodeID": "0" * 56, "NodeManagerAddress": "10.0.0.2"}
    assert list(ask_nodes([node, dead], check, "a")) == [address]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_node_that_does_not_answer_in_time_has_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.0)
    nodes = live_nodes()
    assert list(ask_nodes(nodes, lambda: None).values()) == ["no answer within 0 s"]


def test_faults_are_told_in_a_line_by_node() -> None:
    assert faults_in_words({"10.0.0.2": "b", "10.0.0.1": "a"}) == "10.0.0.1: a; 10.0.0.2: b"
