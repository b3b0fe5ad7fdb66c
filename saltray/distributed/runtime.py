"""The Ray cluster: join the one this process belongs to, or start one on this machine."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from saltray.distributed.admission import Node
from saltray.distributed.cluster_file import ON_HEAD, machines
from saltray.distributed.fork_server import fork_server
from saltray.errors import ConfigError

SETTINGS = {
    # OpenMP threads that wait asleep, so that ranks can share cores.
    "OMP_WAIT_POLICY": "passive",
    # saltray starts a fold only when it fits; a cluster that grows may take its time.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # Ray Train takes one report a look; at its default of 2 s, jobs of shorter epochs wait for that at their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process a fold less each.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A rank stays in the folder it was started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Under `uv run` Ray would start each worker by a `uv run` of its own and upload the working folder.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine with a cold disk takes longer to start Ray than the 30 s that Ray waits.
    "RAY_gcs_server_port_wait_time_s": "120",
    # Ray's own chatter, of which a user can make no use; that there are many processes is meant.
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started",
    # A single machine is not preempted, and one helper process a fold is saved.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ctrl-C ends a search at once, as it ends training; saltray writes its own records of the trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
ALONE_ONLY = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"}


def joins_cluster() -> bool:
    """Whether this process belongs to a running cluster: a Ray job, or RAY_ADDRESS set by the user."""
    return bool(os.environ.get("RAY_ADDRESS"))


def settle() -> None:
    """Set what Ray reads from the environment of this process, where the user has not."""
    joins = joins_cluster()
    for name, value in SETTINGS.items():
        if not (joins and name in ALONE_ONLY):
            os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(*, num_cpus: int | None = None) -> Iterator[str]:
    """Connect to Ray for the time of the block; yields a line that says to what.

    A Ray that the caller has already connected to is used and left as it is. RAY_ADDRESS, which every Ray job has,
    names the cluster to join. Otherwise a Ray of its own is started on this machine and ended with the block; a cluster
    that merely happens to run here is not joined.

    Args:
        num_cpus: logical CPUs of a Ray that is started here; those of the machine unless given.
    """
    settle()
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
    """`ray.init` without its chatter, and without its SIGTERM handler, by which `ray job stop` would just end us."""
    import ray

    constants: Any = ray._private.ray_constants
    # Ray reads this one when it is imported, which the caller may have done before us.
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = constants.env_bool("RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    if threading.current_thread() is threading.main_thread():  # elsewhere Ray sets none either
        signal.signal(signal.SIGTERM, before)


def nodes_present() -> list[Node]:
    """Resources of each live machine of the cluster."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def nodes_possible() -> list[Node]:
    """Resources of each machine of the cluster at its largest; empty where nothing says that it can grow.

    The head has that in the file that `ray up` left there; Ray itself tells only what there is already.
    """
    if not joins_cluster() or not ON_HEAD.expanduser().exists():
        return []
    return [node for _, node in machines(ON_HEAD, complete=False)]


def driver_node() -> str:
    """Ray's name for the resource that only the machine of this process has, as each machine has one."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    (resources,) = (node["Resources"] for node in nodes if node["NodeID"] == here)
    return next(str(name) for name in resources if name.startswith("node:") and name != "node:__internal_head__")


def end_trainers() -> None:
    """Kill the controllers of all trainers that this process has started; whoever waits in their `fit()` gets an error.

    A thread that still waits when Ray is shut down touches it afterwards, and Ray then ends the whole process at once.
    """
    import ray

    worker: Any = ray._private.worker.global_worker
    for key in _live_actors("TrainController"):
        worker.core_worker.kill_actor(ray.ActorID.from_hex(key), True)  # trainers give nobody a handle of theirs


def wait_for_trainers(seconds: float) -> None:
    """Wait until all trainers of this process have ended, also those whose trial was stopped: Ray ends them later."""
    end = time.monotonic() + seconds
    while _live_actors("TrainController", "RayTrainWorker") and time.monotonic() < end:
        time.sleep(0.1)


def _live_actors(*classes: str) -> list[str]:
    """Ids of the actors of these classes that belong to the job of this process."""
    import ray
    from ray._private.state import state

    worker: Any = ray._private.worker.global_worker
    actors = state.actor_table(None, job_id=worker.core_worker.get_current_job_id())
    return [key for key, actor in actors.items() if actor["ActorClassName"] in classes and actor["State"] != "DEAD"]


def free_orphans() -> None:
    """Remove the placement groups of trainers whose controller died, else nobody could use what they reserve.

    Ray keeps a placement group until both its creator and the job are dead, and the helper by which Ray Train sees to
    it needs Ray's dashboard, which not every cluster has.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    table: Any = gcs_pb2
    kind = table.PlacementGroupTableData
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()).binary()
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(raw)
        orphan = group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil()
        if orphan and group.creator_job_id == job and group.state != kind.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
