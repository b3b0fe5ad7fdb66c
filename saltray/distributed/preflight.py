"""Before anything is trained on a cluster: do its nodes see the store, and how many jobs do they hold at once?"""

import re

from saltray.config import ClusterConfig
from saltray.distributed.capacity import Capacity, capacity_of
from saltray.distributed.cluster import joins_cluster, live_nodes, nodes_possible, nodes_present
from saltray.errors import ConfigError, SaltrayError
from saltray.progress import Observer, StoreMustBeShared
from saltray.runs.layout import MANIFEST
from saltray.storage.base import Store

CHECK_S = 120.0
"""Longest wait for a node to look for the store."""


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


def preflight(cluster: ClusterConfig, home: Store, *, jobs: int, sharing: int, observer: Observer) -> Capacity:
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
        if len(present) > 1:
            _check_on_every_node(home)
        if len(possible) > len(present):
            observer(StoreMustBeShared(home.uri))
    return capacity_of(cluster, present, possible or present, jobs=jobs, sharing=sharing)


def _check_on_every_node(home: Store) -> None:
    """A node that joins later checks for itself, before it trains."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    check = ray.remote(num_cpus=0, max_retries=0)(_fault_seen)
    node_of = {
        check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(home): node
        for node in live_nodes()
    }
    answered, silent = ray.wait(list(node_of), num_returns=len(node_of), timeout=CHECK_S)
    faults = {node_of[task]["NodeManagerAddress"]: f"no answer within {CHECK_S:g} s" for task in silent}
    for task in answered:
        try:
            fault = ray.get(task)
        except ray.exceptions.RayError:  # the node died; one that replaces it checks for itself
            continue
        if fault is not None:
            faults[node_of[task]["NodeManagerAddress"]] = fault
    if faults:
        told = "; ".join(f"{address}: {fault}" for address, fault in sorted(faults.items()))
        raise ConfigError(
            f"{home.uri} is not the same folder on every node ({told}); use s3://, or a folder that all nodes share"
        )


def _fault_seen(home: Store) -> str | None:
    """What a node finds wrong, as text: an exception would reach the driver wrapped in many lines of Ray's."""
    try:
        return None if home.exists(MANIFEST) else "the files written there are not visible"
    except SaltrayError as error:
        return str(error)
