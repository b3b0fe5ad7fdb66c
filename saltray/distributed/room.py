"""Before anything is trained on a cluster: do its machines see the store, and how much do they hold at once?"""

import re
from dataclasses import dataclass

from saltray.config import ClusterConfig
from saltray.distributed.admission import Demand, admit, demand_of, slots
from saltray.distributed.console import console
from saltray.distributed.runtime import joins_cluster, nodes_possible, nodes_present
from saltray.errors import ConfigError, SaltrayError
from saltray.storage.base import Store

LOOK_S = 120.0
"""Longest wait for a machine to look for the store."""


@dataclass(frozen=True)
class Room:
    """What there is for jobs of one kind, trials or folds."""

    demand: Demand
    """What a job takes."""
    at_once: int
    """Jobs that may run at once."""
    now: int
    """Jobs that the machines hold which are there already."""


def find_room(cluster: ClusterConfig, home: Store, *, jobs: int, sharing: int) -> Room:
    """Look from every machine for what the driver wrote, then count how many jobs run at once.

    Args:
        cluster: what a job's ranks ask for.
        home: the part of the store of a run or a search that has begun.
        jobs: how many there are to run.
        sharing: among how many the CPUs are shared out, where there are no GPUs.

    Raises:
        ConfigError: some machines do not see the store.
        ResourceError: not even one job can ever run.
    """
    present, possible = nodes_present(), nodes_possible()
    if not home.uri.startswith("s3://"):
        if len(present) > 1:
            _check_on_every_node(home)
        if len(possible) > len(present):
            console.print(f"the store is a folder: machines to come must have it, too, as {home.uri}")
    demand = demand_of(cluster, present, possible or present, at_once=sharing)
    return Room(demand, admit(demand, jobs, present, possible or present), slots(demand, present))


def check_folder(uri: str) -> None:
    """Refuse, on a cluster, a store below the folder that a job happens to run in: the next job has another one.

    Raises:
        ConfigError: it is such a folder.
    """
    if joins_cluster() and not re.match(r"/|\w+://", uri):
        raise ConfigError(
            f"store {uri} lies in the folder of this one job of the cluster; use s3://, or the whole path of a folder "
            "that all nodes share"
        )


def _check_on_every_node(home: Store) -> None:
    """A machine that comes later sees for itself, before it trains."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_fault_seen)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(home): node
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)
    faults = {asked[one]["NodeManagerAddress"]: f"no answer in {LOOK_S:g} s" for one in silent}
    for one in answered:
        try:
            fault = ray.get(one)
        except ray.exceptions.RayError:  # the node is gone; one that comes in its place sees for itself
            continue
        if fault is not None:
            faults[asked[one]["NodeManagerAddress"]] = fault
    if faults:
        told = "; ".join(f"{address}: {fault}" for address, fault in sorted(faults.items()))
        raise ConfigError(
            f"{home.uri} is not the same folder on every node ({told}); use s3://, or a folder that all nodes share"
        )


def _fault_seen(home: Store) -> str | None:
    """What a machine finds wrong; a class of exception could be one that Ray wraps in many lines."""
    try:
        return None if home.exists("manifest.json") else "what was written there is not seen"
    except SaltrayError as error:
        return str(error)
