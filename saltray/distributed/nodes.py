"""The nodes of the connected cluster: which are alive, what they have, and what each of them answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from saltray.distributed.address import joins_cluster
from saltray.distributed.capacity import Node
from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.cluster_file import ON_HEAD, cluster_nodes

CHECK_S = 120.0
"""Longest wait for a node's answer."""


class LiveNode(TypedDict):
    """A node as Ray describes it."""

    NodeID: str
    Alive: bool
    NodeManagerAddress: str
    Resources: Node


def live_nodes() -> list[LiveNode]:
    """The live nodes of the cluster."""
    import ray

    nodes: list[LiveNode] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def nodes_present() -> list[Node]:
    """Resources of each live node of the cluster."""
    return [node["Resources"] for node in live_nodes()]


def nodes_possible() -> list[Node]:
    """Resources of each node of the cluster at its largest; empty where nothing says that it can grow.

    The head node has that in the file that `ray up` left there; Ray itself knows only the nodes that are there already.
    """
    if not joins_cluster() or not Path(os.path.expanduser(ON_HEAD)).exists():  # noqa: PTH111  (there may be no home)
        return []
    return [node for _, node in cluster_nodes(ON_HEAD, complete=False)]


def driver_resource() -> str:
    """The resource by which Ray names the node of this process, as it does each node."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (resources,) = (node["Resources"] for node in live_nodes() if node["NodeID"] == here)
    return next(str(name) for name in resources if name.startswith("node:") and name != "node:__internal_head__")


def ask_node(node: LiveNode, question: Callable[..., object], *args: object) -> Any:
    """Call a function in a process of its own on one node; what `ray.get` takes. It fails if that node has died."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    # A process of its own: the function may change it.
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(question)
    return task.options(scheduling_strategy=there).remote(*args)


def ask_nodes(nodes: Sequence[LiveNode], check: Callable[..., str | None], *args: object) -> dict[str, str]:
    """What a check finds wrong on each node, by the node's address; without those where it finds nothing."""
    import ray
    from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError

    node_of = {ask_node(node, check, *args): node for node in nodes}
    if not node_of:
        return {}
    answered, silent = ray.wait(list(node_of), num_returns=len(node_of), timeout=CHECK_S)
    faults = {node_of[asked]["NodeManagerAddress"]: f"no answer within {CHECK_S:g} s" for asked in silent}
    for asked in answered:
        try:
            fault = ray.get(asked)
        except (NodeDiedError, TaskUnschedulableError):  # one that replaces the node checks for itself
            continue
        except RayError as error:  # the check cannot run there: saltray is not installed, for instance
            fault = cause_in_a_line(str(error))
        if fault is not None:
            faults[node_of[asked]["NodeManagerAddress"]] = fault
    return faults


def faults_in_words(faults: Mapping[str, str]) -> str:
    """What `ask_nodes` returned, on one line."""
    return "; ".join(f"{where}: {fault}" for where, fault in sorted(faults.items()))
