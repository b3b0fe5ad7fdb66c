"""Before anything is trained: what can be known of the machines, and whether the nodes of a cluster see the store."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from saltray.config import ClusterConfig
from saltray.distributed.capacity import Capacity, Node, capacity_of
from saltray.distributed.cluster import (
    LiveNode,
    joins_cluster,
    live_nodes,
    nodes_possible,
    nodes_present,
    ray_cluster,
)
from saltray.distributed.machine import gpu_fault, this_machine
from saltray.errors import ConfigError, ResourceError, SaltrayError
from saltray.progress import Observer, StoreMustBeShared
from saltray.runs.layout import MANIFEST
from saltray.storage.base import Store

CHECK_S = 120.0
"""Longest wait for a node's answer."""
TRAIN_V2 = "RAY_TRAIN_V2_ENABLED"


def check_store_uri(uri: str) -> None:
    """Refuse, on a cluster, a store below the working directory of a job: the next job has another one.

    Raises:
        ConfigError: it is such a folder.
    """
    if joins_cluster() and not re.match(r"/|\w+://", uri):
        raise ConfigError(
            f"store {uri} is a folder in the working directory of this one job of the cluster; use s3://, or the "
            "absolute path of a folder that all nodes share"
        )


@dataclass(frozen=True)
class Preflight:
    """What there is to train on."""

    where: str
    """In words."""
    present: Sequence[Node]
    possible: Sequence[Node]
    """The nodes of the cluster at its largest; empty where nothing says that it can grow."""
    capacity: Capacity


def preflight(cluster: ClusterConfig, *, jobs: int, sharing: int, planned: Sequence[Node] = ()) -> Preflight:
    """Judge the machines before anything is started or written: of the cluster that this process belongs to, or else
    this one.

    Args:
        cluster: what a job's ranks ask for.
        jobs: how many there are to run.
        sharing: how many jobs the CPUs are divided among, where there are no GPUs.
        planned: nodes that there can be; then this machine is not where jobs run.

    Raises:
        ConfigError: the environment has a setting that jobs cannot run with, or the cluster cannot be joined.
        ResourceError: not even one job can ever run, or a GPU is there that torch cannot use.
    """
    import ray

    check_environment()
    present: Sequence[Node]
    if joins_cluster() or ray.is_initialized():
        with ray_cluster() as where:
            present, possible = nodes_present(), planned or nodes_possible()
            faults = _gpu_faults(cluster, live_nodes())
    elif planned:
        where, present, possible, faults = "no cluster is connected", [], planned, {}
    else:
        where, present, possible = "this machine", [this_machine()], []
        faults = _gpu_faults(cluster, [])
    if faults:
        raise ResourceError(
            f"{faults_in_words(faults)}; install a torch that fits (https://pytorch.org/get-started), or give "
            "--gpus-per-worker 0 to train on CPUs"
        )
    return Preflight(
        where, present, possible, capacity_of(cluster, present, possible or present, jobs=jobs, sharing=sharing)
    )


def _gpu_faults(cluster: ClusterConfig, nodes: Sequence[LiveNode]) -> dict[str, str]:
    """Where torch cannot use GPUs, and why; on the only node of a cluster as on a machine without one."""
    if cluster.gpus_per_worker == 0:
        return {}
    if len(nodes) > 1:
        return ask_nodes([node for node in nodes if node["Resources"].get("GPU", 0)], _gpu_fault_of_node)
    fault = gpu_fault()
    return {} if fault is None else {"this machine": fault}


def check_environment() -> None:
    """Refuse what the environment says to Ray if jobs cannot run with it.

    Raises:
        ConfigError: it has such a setting.
    """
    version = os.environ.get(TRAIN_V2, "1")
    if version.lower() not in ("1", "true"):
        raise ConfigError(f"{TRAIN_V2} is {version!r}, but saltray trains with version 2 of Ray Train; unset it")


def check_cluster(cluster: ClusterConfig, home: Store, *, jobs: int, sharing: int, observer: Observer) -> Capacity:
    """Check from every node that it sees what the driver wrote, then count how many jobs run at once.

    Args:
        cluster: what a job's ranks ask for.
        home: the part of the store of a run or a search, with its manifest.
        jobs: how many there are to run.
        sharing: how many jobs the CPUs are divided among, where there are no GPUs.
        observer: receives a warning where nodes that join later must share a folder.

    Raises:
        ConfigError: some nodes do not see the store.
        ResourceError: not even one job can ever run.
    """
    present, possible = nodes_present(), nodes_possible()
    if not home.uri.startswith("s3://"):
        # A node that joins later checks for itself, before it trains.
        if len(present) > 1 and (faults := ask_nodes(live_nodes(), _fault_seen, home)):
            raise ConfigError(
                f"{home.uri} is not the same folder on every node ({faults_in_words(faults)}); use s3://, or a folder "
                "that all nodes share"
            )
        if len(possible) > len(present):
            observer(StoreMustBeShared(home.uri))
    return capacity_of(cluster, present, possible or present, jobs=jobs, sharing=sharing)


def ask_nodes(nodes: Sequence[LiveNode], check: Callable[..., str | None], *args: object) -> dict[str, str]:
    """What a check finds wrong on each node, by the node's address; without those where it finds nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A process of its own for each: the check may change it.
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(check)
    node_of = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(*args): node
        for node in nodes
    }
    if not node_of:
        return {}
    answered, silent = ray.wait(list(node_of), num_returns=len(node_of), timeout=CHECK_S)
    faults = {node_of[asked]["NodeManagerAddress"]: f"no answer within {CHECK_S:g} s" for asked in silent}
    for asked in answered:
        try:
            fault = ray.get(asked)
        except ray.exceptions.RayError:  # the node died; one that replaces it checks for itself
            continue
        if fault is not None:
            faults[node_of[asked]["NodeManagerAddress"]] = fault
    return faults


def faults_in_words(faults: Mapping[str, str]) -> str:
    """What `ask_nodes` returned, on one line."""
    return "; ".join(f"{where}: {fault}" for where, fault in sorted(faults.items()))


def _gpu_fault_of_node() -> str | None:
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):  # Ray hides GPUs from a task that asks for none
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return gpu_fault()


def _fault_seen(home: Store) -> str | None:
    """What a node finds wrong, as text: an exception would reach the driver wrapped in many lines of Ray's."""
    try:
        return None if home.exists(MANIFEST) else "the files written there are not visible"
    except SaltrayError as error:
        return str(error)
