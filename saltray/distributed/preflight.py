"""Before anything is trained: what can be known of the machines, and whether the nodes of a cluster see the store."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from saltray.config import ClusterConfig
from saltray.distributed.address import joins_cluster
from saltray.distributed.capacity import Capacity, Node, capacity_of
from saltray.distributed.cluster import is_connected, only_thread, ray_cluster
from saltray.distributed.machine import gpu_fault, this_machine
from saltray.distributed.nodes import LiveNode, ask_nodes, faults_in_words, live_nodes, nodes_possible, nodes_present
from saltray.distributed.paths import check_seen
from saltray.errors import ConfigError, ResourceError
from saltray.progress import Observer, StoreMustBeShared
from saltray.runs.layout import MANIFEST
from saltray.storage.base import Store

TRAIN_V2 = "RAY_TRAIN_V2_ENABLED"


@dataclass(frozen=True)
class Preflight:
    """What there is to train on."""

    where: str
    """In words."""
    present: Sequence[Node]
    possible: Sequence[Node]
    """The nodes of the cluster at its largest; empty where nothing says that it can grow."""
    capacity: Capacity


def preflight(cluster: ClusterConfig, *, jobs: int, least_cpus: float = 0, planned: Sequence[Node] = ()) -> Preflight:
    """Judge the machines before anything is started or written: of the cluster that this process belongs to, or else
    this one.

    Args:
        cluster: what a job's ranks ask for.
        jobs: how many there are to run.
        least_cpus: as for `capacity_of`.
        planned: nodes that there can be; then this machine is not where jobs run.

    Raises:
        ConfigError: the environment has a setting that jobs cannot run with, or the cluster cannot be joined.
        ResourceError: not even one job can ever run, or a GPU is there that torch cannot use.
    """
    _check_environment()
    wanted, instead = cluster.gpus_per_worker != 0, "give --gpus-per-worker 0 to train on CPUs"
    present: Sequence[Node]
    with only_thread():
        if joins_cluster() or is_connected():
            with ray_cluster() as where:
                present, possible = nodes_present(), planned or nodes_possible()
                if wanted:
                    _check_gpus(live_nodes(), instead)
        elif planned:
            where, present, possible = "no cluster is connected", [], planned
        else:
            where, present, possible = "this machine", [this_machine()], []
            if wanted:
                _check_gpus([], instead)
    capacity = capacity_of(cluster, present, possible or present, jobs=jobs, least_cpus=least_cpus)
    return Preflight(where, present, possible, capacity)


def check_gpus(instead: str) -> None:
    """Refuse GPUs that torch cannot use, of the cluster that this process belongs to, or else of this machine.

    Args:
        instead: how the user can do without them.

    Raises:
        ConfigError: the cluster cannot be joined.
        ResourceError: there is such a GPU.
    """
    joins = joins_cluster() or is_connected()
    with only_thread(), ray_cluster() if joins else nullcontext():
        _check_gpus(live_nodes() if joins else [], instead)


def _check_gpus(nodes: Sequence[LiveNode], instead: str) -> None:
    """The only node of a cluster is judged as a machine without one."""
    if len(nodes) > 1:
        faults = ask_nodes([node for node in nodes if node["Resources"].get("GPU", 0)], gpu_fault)
    else:
        faults = {"this machine": fault} if (fault := gpu_fault()) is not None else {}
    if faults:
        raise ResourceError(
            f"{faults_in_words(faults)}; install a torch that fits (https://pytorch.org/get-started), name the GPUs "
            f"that it can use in CUDA_VISIBLE_DEVICES, or {instead}"
        )


def _check_environment() -> None:
    """Refuse what the environment says to Ray if jobs cannot run with it."""
    version = os.environ.get(TRAIN_V2, "1")
    if version.lower() not in ("1", "true"):
        raise ConfigError(f"{TRAIN_V2} is {version!r}, but saltray trains with version 2 of Ray Train; unset it")


def check_cluster(
    cluster: ClusterConfig, home: Store, *, jobs: int, observer: Observer, least_cpus: float = 0
) -> Capacity:
    """Check from every node that it sees what the driver wrote, then count how many jobs run at once.

    Args:
        cluster: what a job's ranks ask for.
        home: the part of the store of a run or a search, with its manifest.
        jobs: how many there are to run.
        observer: receives a warning where nodes that join later must share a folder.
        least_cpus: as for `capacity_of`.

    Raises:
        ConfigError: some nodes do not see the store.
        ResourceError: not even one job can ever run.
    """
    present, possible = nodes_present(), nodes_possible()
    check_seen(home.uri, partial(home.get, MANIFEST))  # a node that joins later checks for itself, before it trains
    if not home.is_remote and len(possible) > len(present):
        observer(StoreMustBeShared(home.uri))
    return capacity_of(cluster, present, possible or present, jobs=jobs, least_cpus=least_cpus)
