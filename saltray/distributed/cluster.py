"""The Ray cluster: join the one this process belongs to, or start one on this machine."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from saltray.distributed.capacity import Node
from saltray.distributed.cluster_file import ON_HEAD, cluster_nodes
from saltray.distributed.fork_server import fork_server
from saltray.errors import ConfigError

ENVIRONMENT = {
    # OpenMP threads sleep while they wait, so that ranks can share cores.
    "OMP_WAIT_POLICY": "passive",
    # saltray starts a job only when it fits; an autoscaling cluster may take its time.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # Ray Train's controller takes one report per poll; at its default of 2 s, jobs of shorter epochs wait at their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process less per job.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A rank stays in the folder it was started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Under `uv run` Ray would start each worker by a `uv run` of its own and upload the working folder.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine with a cold disk takes longer to start Ray than the 30 s that Ray waits.
    "RAY_gcs_server_port_wait_time_s": "120",
    # Messages of Ray's that a user cannot act on: many worker processes are intended, and where one died saltray tells
    # the consequence.
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started|A worker died or was killed",
    # A single machine is not preempted, and one helper process per job is saved.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ctrl-C ends a search at once, as it ends training; saltray writes its own records of the trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
SINGLE_MACHINE_ONLY = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"}


class LiveNode(TypedDict):
    """A node as Ray describes it."""

    NodeID: str
    Alive: bool
    NodeManagerAddress: str
    Resources: Node


def joins_cluster() -> bool:
    """Whether this process belongs to a running cluster: a Ray job, or RAY_ADDRESS set by the user."""
    return bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """Set what Ray reads from the environment of this process, where the user has not."""
    joins = joins_cluster()
    for name, value in ENVIRONMENT.items():
        if not (joins and name in SINGLE_MACHINE_ONLY):
            os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(*, num_cpus: int | None = None) -> Iterator[str]:
    """Connect to Ray for the duration of the block; yields a description of the cluster.

    A Ray that the caller has already connected to is used and left as it is. RAY_ADDRESS, which every Ray job has,
    names the cluster to join. Otherwise a Ray of its own is started on this machine and ended with the block; a cluster
    that merely happens to run here is not joined.

    Args:
        num_cpus: logical CPUs of a Ray that is started here; those of the machine unless given.
    """
    set_environment()
    import ray

    where = f"the Ray cluster at {os.environ['RAY_ADDRESS']}" if joins_cluster() else "Ray on this machine"
    if ray.is_initialized():
        yield where
        return
    if joins_cluster():
        if "://" in os.environ["RAY_ADDRESS"]:
            raise ConfigError(
                f"RAY_ADDRESS is {os.environ['RAY_ADDRESS']}, which is for `ray job submit`; unset it to run here, or "
                "submit this command as a job"
            )
        _connect()
        try:
            yield where
        finally:
            ray.shutdown()
        return
    with fork_server() as python:
        _connect(address="local", num_cpus=num_cpus, include_dashboard=False, runtime_env={"py_executable": python})
        try:
            yield where
        finally:
            ray.shutdown()


def _connect(**settings: Any) -> None:
    """`ray.init` without its messages, and without its SIGTERM handler, by which `ray job stop` would just end us."""
    import ray

    from saltray.distributed.ray_internals import reread_skipped_messages, reread_uv_setting

    reread_uv_setting()
    reread_skipped_messages()
    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    if threading.current_thread() is threading.main_thread():  # elsewhere Ray sets none either
        signal.signal(signal.SIGTERM, before)


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
    if not joins_cluster() or not ON_HEAD.expanduser().exists():
        return []
    return [node for _, node in cluster_nodes(ON_HEAD, complete=False)]


def driver_resource() -> str:
    """The resource by which Ray names the node of this process, as it does each node."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (resources,) = (node["Resources"] for node in live_nodes() if node["NodeID"] == here)
    return next(str(name) for name in resources if name.startswith("node:") and name != "node:__internal_head__")


def kill_trainers() -> None:
    """Kill the controllers of all trainers that this process has started; threads in their `fit()` get an error.

    A thread that is still in `fit()` when Ray is shut down touches Ray afterwards, and Ray then ends the whole process.
    """
    from saltray.distributed.ray_internals import CONTROLLER, kill_actor, live_actors

    for actor in live_actors(CONTROLLER):
        kill_actor(actor)


def wait_for_trainers(seconds: float) -> None:
    """Wait until all trainers of this process have ended, also those whose trial was stopped: Ray ends them later."""
    from saltray.distributed.ray_internals import CONTROLLER, RANK, live_actors

    end = time.monotonic() + seconds
    while live_actors(CONTROLLER, RANK) and time.monotonic() < end:
        time.sleep(0.1)
