"""What each replica of a service gets of the cluster."""

from typing import Literal, NamedTuple

from saltray.distributed.nodes import nodes_possible, nodes_present
from saltray.errors import ConfigError


class Placement(NamedTuple):
    """What each replica with the models gets."""

    device: Literal["GPU", "CPU"]
    cpus: int


def place_replicas(count: int) -> Placement:
    """A GPU for each of `count` replicas where there are any, else as many CPUs as there are for each.

    Raises:
        ConfigError: the cluster cannot have so many.
    """
    clusters = [nodes_present(), nodes_possible()]  # as it is, and as it can be
    device: Literal["GPU", "CPU"] = "GPU" if any(node.get("GPU", 0) for nodes in clusters for node in nodes) else "CPU"
    largest = int(max(node.get(device, 0) for nodes in clusters for node in nodes))
    # How many replicas of 1, 2, 3, ... CPUs or GPUs there can be.
    shares = [
        max(int(sum(node.get(device, 0) // share for node in nodes)) for nodes in clusters)
        for share in range(1, 1 + largest)
    ]
    if not shares or shares[0] < count:
        most = shares[0] if shares else 0
        raise ConfigError(
            f"{count} replicas need a {device} each, but the cluster has at most {most}; lower --replicas or "
            "--max-replicas"
        )
    return Placement(device, 1 if device == "GPU" else sum(fit >= count for fit in shares))
