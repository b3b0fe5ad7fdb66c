"""Paths on a cluster: which are lost with a job, and which all nodes see."""

import os
from collections.abc import Callable

from saltray.data.source import Source
from saltray.distributed.cluster import joins_cluster, live_nodes
from saltray.distributed.preflight import ask_nodes, faults_in_words
from saltray.ensemble.layout import MANIFEST
from saltray.errors import ConfigError, SaltrayError
from saltray.storage.uri import open_store


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
    nodes = live_nodes()
    for uri, find_fault, key in ((ensemble, _fault_of_object, MANIFEST), (data, _fault_of_tile, name)):
        if uri.startswith("s3://") or len(nodes) == 1:
            continue
        # A node that joins later tells the first tile that it does not see.
        if faults := ask_nodes(nodes, find_fault, uri, key):
            told = faults_in_words(faults)
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
