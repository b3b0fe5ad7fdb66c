"""The cluster that RAY_ADDRESS names: whether there is one to join, and whether it answers."""

import os
import socket

from saltray.errors import ConfigError

ANSWER_S = 5.0
"""Seconds that the head of a cluster may take to answer."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of gRPC says first: the preface of HTTP/2, and its settings."""
SETTINGS = b"\4"
"""The kind of frame that the server of such a client says first."""


def joins_cluster() -> bool:
    """Whether this process is to join a running cluster: in the driver of a Ray job, or where the user set RAY_ADDRESS.

    Ray's workers have no RAY_ADDRESS: there, `is_on_loopback` tells whether the cluster is this machine alone.
    """
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def cannot_join(reason: str) -> ConfigError:
    """What to tell where the cluster of RAY_ADDRESS cannot be joined."""
    address = os.environ["RAY_ADDRESS"]
    return ConfigError(
        f"cannot join a Ray cluster: RAY_ADDRESS is {address}: {reason}; unset it to run on this machine"
    )


def check_address(address: str) -> None:
    """Refuse at once what `ray.init` would refuse in minutes, or not at all.

    Raises:
        ConfigError: there is no cluster at the address, or this machine is none of its nodes.
    """
    from saltray.distributed.ray_internals import head_address, node_here

    if "://" in address:
        purpose = "Ray Client" if address.startswith("ray://") else "`ray job submit`"
        raise ConfigError(
            f"RAY_ADDRESS is {address}, which is for {purpose}; unset it to run here, or submit this command as a job"
        )
    try:
        head = head_address()
    except (OSError, ValueError) as error:
        raise cannot_join(str(error).partition(". ")[0]) from error
    try:
        found = answers(head)
    except (OSError, ValueError, OverflowError) as error:
        raise cannot_join(str(error) if head == address else f"{head}: {error}") from error
    if not found:
        raise cannot_join(f"what answers at {head} is not the head of a Ray cluster")
    if not node_here():
        raise cannot_join("no Ray node runs on this machine; submit this command as a job, or `ray start` a node here")


def answers(address: str) -> bool:
    """Whether a server of gRPC answers there. Ray's own client of it waits for 40 s and more for one that does not."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "1":  # it answers only a client with the certificate, which Ray's has
            return True
        connection.sendall(HTTP2)
        return connection.recv(9)[3:4] == SETTINGS
