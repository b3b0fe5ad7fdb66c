"""Files that the driver sees: do the other nodes of its cluster see them too?"""

from collections.abc import Callable
from pathlib import Path

from saltray.data.source import Source
from saltray.distributed.cluster import joins_cluster, live_nodes
from saltray.ensemble.layout import MANIFEST
from saltray.errors import ConfigError, SaltrayError
from saltray.storage.uri import open_store

CHECK_S = 120.0
"""Longest wait for a node's answer."""


def check_kept(what: str, uri: str) -> None:
    """Refuse, on a cluster, to write below the working directory of a job, which is removed with it.

    Args:
        what: the output, as the command calls it.
        uri: where it is to be written.

    Raises:
        ConfigError: it is such a path.
    """
    if joins_cluster() and "://" not in uri and not Path(uri).expanduser().is_absolute():
        raise ConfigError(
            f"{what} {uri} is in the working directory of this one job of the cluster, which is lost with it; use "
            "s3://, or an absolute path"
        )


def check_inputs_seen(ensemble: str, data: str, name: str) -> None:
    """Ask every node whether it sees the ensemble and the tiles, where these are in folders and there are several.

    Args:
        ensemble: URI of one version.
        data: absolute URI of the data set.
        name: of one of its images.

    Raises:
        ConfigError: some nodes do not.
    """
    for uri, find_fault, key in ((ensemble, _fault_of_object, MANIFEST), (data, _fault_of_tile, name)):
        if uri.startswith("s3://"):
            continue
        if faults := _ask_nodes(find_fault, uri, key):
            told = "; ".join(f"{address}: {fault}" for address, fault in sorted(faults.items()))
            raise ConfigError(f"not every node sees {uri} ({told}); use s3://, or a folder that all nodes share")


def _fault_of_object(uri: str, key: str) -> str | None:
    """What a node finds wrong, as text: an exception would reach the driver wrapped in many lines of Ray's."""
    return _fault(lambda: open_store(uri).get(key))


def _fault_of_tile(uri: str, name: str) -> str | None:
    return _fault(lambda: Source(uri).read(name))


def _fault(read: Callable[[], object]) -> str | None:
    try:
        read()
    except SaltrayError as error:
        return str(error)
    return None


def _ask_nodes(find_fault: Callable[..., str | None], *args: object) -> dict[str, str]:
    """What each node of several finds wrong, by the node's address; without those where it is nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = live_nodes()
    if len(nodes) < 2:
        return {}
    check = ray.remote(num_cpus=0, max_retries=0)(find_fault)
    node_of = {
        check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *args
        ): node
        for node in nodes
    }
    answered, silent = ray.wait(list(node_of), num_returns=len(node_of), timeout=CHECK_S)
    faults = {node_of[task]["NodeManagerAddress"]: f"no answer within {CHECK_S:g} s" for task in silent}
    for task in answered:
        try:
            fault = ray.get(task)
        except ray.exceptions.RayError:  # the node died; one that replaces it tells which tile it does not see
            continue
        if fault is not None:
            faults[node_of[task]["NodeManagerAddress"]] = fault
    return faults
