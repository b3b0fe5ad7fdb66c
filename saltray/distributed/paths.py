"""Paths on a cluster: which are lost with a job, and which all nodes see."""

import os
from collections.abc import Callable

from saltray.distributed.address import joins_cluster
from saltray.distributed.nodes import ask_nodes, faults_in_words, live_nodes
from saltray.errors import ConfigError, SaltrayError


def check_kept(what: str, uri: str) -> None:
    """Refuse, on a cluster, to write below the working directory of a job, which is removed with it.

    Args:
        what: the output, as the command calls it.
        uri: where it is to be written.

    Raises:
        ConfigError: it is such a path.
    """
    absolute = os.path.isabs(os.path.expanduser(uri))  # noqa: PTH111, PTH117  (Path raises for a user who is not there)
    if joins_cluster() and "://" not in uri and not absolute:
        raise ConfigError(
            f"{what} {uri} is in the working directory of this one job of the cluster, which is lost with it; use "
            "s3://, or the absolute path of a folder that all nodes share"
        )


def check_seen(uri: str, read: Callable[[], object]) -> None:
    """Ask every node whether it sees what is in a folder, where there are several. All see the same S3.

    Args:
        uri: the folder's.
        read: reads something that is there; it is called on each node.

    Raises:
        ConfigError: some nodes do not see it.
    """
    if uri.startswith("s3://") or len(nodes := live_nodes()) == 1:
        return
    if faults := ask_nodes(nodes, _fault_of, read):
        told = faults_in_words(faults)
        raise ConfigError(f"not every node sees {uri} ({told}); use s3://, or a folder that all nodes share")


def _fault_of(read: Callable[[], object]) -> str | None:
    """What a node finds wrong, as text: an exception would reach the driver wrapped in many lines of Ray's."""
    try:
        read()
    except SaltrayError as error:
        return str(error)
    return None
