"""What saltray uses of Ray beyond its public API: each with its reason, and a test that fails when Ray changes it.

`ray` is pinned to the minor version that these were tested with. Nothing else in the package touches a private name.
"""

import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorHandleNotFoundError
from ray.train.backend import Backend
from ray.train.torch.config import (
    TorchConfig,
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

# By these paths Ray Train v2 has types; `ray.train` has those of v1, or of v2, by an environment variable.
__all__ = [
    "CheckpointConfig",
    "FailureConfig",
    "LocalTorchConfig",
    "LoggingConfig",
    "RunConfig",
    "ScalingConfig",
    "Trainer",
    "UserCallback",
]


def raised_by_rank(error: BaseException) -> BaseException:
    """The exception that a rank or a hook raised, out of those that Ray Train wraps it in; else `error` itself.

    Ray Train has no public name for the wrapper of a rank's exception.
    """
    if isinstance(error, WorkerGroupError):
        return raised_by_rank(next(iter(error.worker_failures.values()), Exception()))
    inner = error.controller_failure if isinstance(error, ControllerError) else vars(error).get("_base_exc")
    return raised_by_rank(inner) if isinstance(inner, BaseException) else error


LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")
"""Callbacks of Ray Train that start a helper process for each job, and have nothing to do for saltray's."""
CONTROLLER = "TrainController"
"""Class of the actor that runs a job of Ray Train."""
RANK = "RayTrainWorker"
"""Class of the actor that is one rank of it."""


class JobConfig(ray.job_config.JobConfig):
    """A job whose workers do not get the folder of the driver's script and the current one on their import path.

    Ray puts both first, and a user's `random.py` there would take the place of Python's. It leaves them out when a
    working directory is uploaded. Workers need neither: they import what is installed.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


class Trainer(TorchTrainer):
    """A TorchTrainer without two helper processes per job.

    One removes placement groups of dead controllers. It needs Ray's dashboard, which not every cluster has; saltray
    calls `remove_orphaned_placement_groups` instead. The other hands out shards of Ray's datasets, and saltray's jobs
    have none.
    """

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in LEFT_OUT]


class LocalTorchConfig(TorchConfig):
    """Lets the ranks of a job on one machine find each other by a file.

    PyTorch's server for that listens on all interfaces, and anybody who reaches it can join the ranks.
    It serves Gloo and NCCL alike.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return _LocalTorchBackend


class _LocalTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        ranks = range(len(worker_group))
        url = f"file://{worker_group.execute_single(0, _new_file)}"
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(ranks),
                init_method=url,
                timeout_s=backend_config.timeout_s,
            )
            for rank in ranks
        ]
        ray.get(joining)


def _new_file() -> str:
    """The path of a file that does not exist, in Ray's own folder, whose path is short and plain."""
    node: Any = ray._private.worker._global_node
    return f"{node.get_session_dir_path()}/ranks-{secrets.token_hex(8)}"


def live_actors(*classes: str) -> list[str]:
    """Ids of the live actors of these classes, by default of all, that belong to the Ray job of this process.

    Ray's public state API asks the dashboard, which a local Ray of ours does not start.

    Raises:
        RayDied: Ray would wait for an answer in vain.
    """
    actors = _actors()
    wanted = {key: actor for key, actor in actors.items() if not classes or actor["ActorClassName"] in classes}
    return [key for key, actor in wanted.items() if actor["State"] != "DEAD"]


def _actors() -> dict[str, dict[str, Any]]:
    from ray._private.state import state

    check_alive()
    actors: dict[str, dict[str, Any]] = state.actor_table(None, job_id=_core_worker().get_current_job_id())
    return actors


def kill_actor(actor: str) -> bool:
    """Kill an actor by its id. `ray.kill` needs a handle, and Ray Train hands out none of its controllers.

    Returns:
        False for one that another actor has started, which is left to Ray: it is killed when that one is dead, or is
        one of Ray's own that the whole cluster shares.
    """
    try:
        _core_worker().kill_actor(ray.ActorID.from_hex(actor), True)
    except ActorHandleNotFoundError:
        return False
    return True


def remove_orphaned_placement_groups() -> None:
    """Remove the placement groups whose creator is dead: an actor of this Ray job, or another job of the cluster.

    Ray keeps what an actor created until its job is dead, too. It keeps for ever what was still being created when its
    job ended, and the nodes' CPUs and GPUs with it.

    Raises:
        RayDied: Ray would wait for an answer in vain.
    """
    groups = _placement_groups()
    dead = {ray.ActorID.from_hex(key).binary() for key, actor in _actors().items() if actor["State"] == "DEAD"}
    job = _job_id()
    ended = _ended_jobs() if any(group.creator_job_id != job for group in groups) else set()
    for group in groups:
        if group.creator_job_id in ended or (group.creator_job_id == job and group.creator_actor_id in dead):
            _remove(group)


def remove_placement_groups() -> int:
    """Remove all placement groups of this Ray job; returns how many there were.

    Raises:
        RayDied: Ray would wait for an answer in vain.
    """
    groups = [group for group in _placement_groups() if group.creator_job_id == _job_id()]
    for group in groups:
        _remove(group)
    return len(groups)


def _job_id() -> bytes:
    job: bytes = _core_worker().get_current_job_id().binary()
    return job


def _placement_groups() -> list[Any]:
    """Those of all jobs that reserve something, but for detached ones. The public table has no creator."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    check_alive()
    messages: Any = gcs_pb2
    table_data = messages.PlacementGroupTableData
    groups = [table_data.FromString(raw) for raw in state._connect_and_get_accessor().get_placement_group_table()]
    return [group for group in groups if group.state != table_data.REMOVED and not group.is_detached]


def _ended_jobs() -> set[bytes]:
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    messages: Any = gcs_pb2
    raw = state._connect_and_get_accessor().get_job_table(
        skip_submission_job_info_field=True, skip_is_running_tasks_field=True
    )
    jobs = [messages.JobTableData.FromString(each) for each in raw]
    return {job.job_id for job in jobs if job.is_dead}


def _remove(group: Any) -> None:
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


MAIN_PROCESSES = {"raylet": "raylet", "gcs_server": "GCS"}
"""Kind of process -> its name in Ray's documentation."""
WATCH_SIGNAL = signal.SIGURG
"""Sent to the main thread when one of them has died. Without a handler this signal does nothing."""


class RayDied(KeyboardInterrupt):
    """A process without which Ray cannot work has died. Ray's own waits end by a plain KeyboardInterrupt then."""


def check_alive() -> None:
    """Raise RayDied if the raylet or the GCS of a Ray that was started here has died.

    Whoever asks that Ray waits in vain, and after a minute at most Ray's core ends the whole process.
    """
    node: Any = ray._private.worker._global_node
    for kind, process in node.dead_processes() if node is not None else ():
        if kind in MAIN_PROCESSES:
            code = process.returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            why = ", as the kernel does when memory is short" if code == -signal.SIGKILL else ""
            raise RayDied(f"its {MAIN_PROCESSES[kind]} {how}{why}")


def kill_ray() -> None:
    """Kill what is left of a Ray that was started here, so that threads that wait for it get an error.

    A cluster that was joined is left as it is.
    """
    node: Any = ray._private.worker._global_node
    node.kill_all_processes(check_alive=False, allow_graceful=False)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts in this block, and all its processes, listen on 127.0.0.1 alone, as it does on macOS.

    On Linux it listens on all interfaces; given 127.0.0.1 as the node's address, it looks for another one.
    """
    constants: Any = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def is_on_loopback() -> bool:
    """Whether the Ray that this process is connected to is such a one, so that all ranks are on this machine."""
    return str(ray.util.get_node_ip_address()) == "127.0.0.1"  # type: ignore[no-untyped-call]


@contextmanager
def own_token() -> Iterator[None]:
    """Give a Ray that starts in this block a token by the environment, unless the caller has given one.

    Ray would save one in ~/.ray, and not everybody has a home that can be written. It caches what it has read.
    """
    core: Any = ray._raylet
    loader = core.AuthenticationTokenLoader.instance()
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    loader.reset_cache()
    try:
        yield
    finally:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        loader.reset_cache()


def head_address() -> str:
    """`host:port` of the head of the cluster that RAY_ADDRESS names; "auto" is one that runs on this machine.

    Raises:
        OSError, ValueError: there is none, or that is no address.
    """
    services: Any = ray._private.services
    given = os.environ["RAY_ADDRESS"]
    if given != "auto" and not given.rpartition(":")[0].strip():  # of which Ray would print a traceback
        raise ValueError(f"Invalid address format: {given}")
    return str(services.canonicalize_bootstrap_address("auto"))


def node_here() -> bool:
    """Whether a node of some cluster runs on this machine: a driver connects through one."""
    services: Any = ray._private.services
    return bool(services.find_node_ids())


def logs_folder() -> str:
    """Where Ray keeps the logs of this node's workers, each as `worker-<worker>-<job>-<process id>.err`.

    Ray's public way to a log asks the dashboard.
    """
    node: Any = ray._private.worker._global_node
    return str(node.get_logs_dir_path())


def reread_uv_setting() -> None:
    """Let RAY_ENABLE_UV_RUN_RUNTIME_ENV count, which Ray reads when it is imported: the caller may have done so."""
    constants: Any = ray._private.ray_constants
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = constants.env_bool("RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)


def reread_skipped_messages() -> None:
    """Let RAY_DEDUP_LOGS_SKIP_REGEX count: what Ray prints of its raylets, in spite of `log_to_driver=False`."""
    skipped = re.compile(os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"])
    ray._private.ray_logging.stdout_deduplicator.skip_re = skipped


def shut_down() -> None:
    """`ray.shutdown`, but SIGTERM keeps its handler, and nobody is told that Ray's processes end.

    Ray's core sets it to what ends the process at once, behind Python's back, long before its processes have ended.
    """
    from ray._private.state import state

    untyped: Any = state
    disconnect = untyped.disconnect
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, WATCH_SIGNAL)}
    in_main_thread = threading.current_thread() is threading.main_thread()

    def restore(number: signal.Signals) -> None:
        if handlers[number] is not None and in_main_thread:
            signal.signal(number, handlers[number])

    def restore_and_disconnect() -> None:  # Ray calls this just before it ends its processes
        restore(signal.SIGTERM)
        disconnect()

    untyped.disconnect = restore_and_disconnect
    if in_main_thread:
        signal.signal(WATCH_SIGNAL, signal.SIG_IGN)
    try:
        ray.shutdown()
    finally:
        untyped.disconnect = disconnect
        restore(signal.SIGTERM)
        restore(WATCH_SIGNAL)


@contextmanager
def quick_setup() -> Iterator[None]:
    """Let a Ray that is started in this block start its workers by saltray's `setup_worker.py` in place of its own.

    Ray's imports all of Ray for each worker, only to replace itself by it. Linux alone: on macOS it does more.
    """
    constants: Any = ray._private.ray_constants
    before = constants.SETUP_WORKER_FILENAME
    if sys.platform == "linux":
        constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name(before))  # joined to a path, it stays absolute
    try:
        yield
    finally:
        constants.SETUP_WORKER_FILENAME = before


def _core_worker() -> Any:
    worker: Any = ray._private.worker.global_worker
    return worker.core_worker


def with_code_version(deployment: Any, version: str) -> Any:
    """A deployment of Ray Serve whose replicas are kept when it is deployed again with another `user_config`.

    Without a version, which Serve's public options no longer have, each `serve.run` counts as new code and starts new
    replicas, for which a cluster may have no GPU left.
    """
    deployment._version = version
    return deployment


def serve_http_options() -> Any:
    """The HTTP options of the Serve that runs on the cluster, which it keeps whatever `serve.start` is given; or None.

    The public status does not have them.
    """
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config


def keep_replica_on_loopback() -> None:
    """Let this replica's server for calls between replicas listen on 127.0.0.1 alone, where its Ray does.

    Serve has it listen on all interfaces. To be called in the constructor of a deployment: the server starts next.
    """
    if not is_on_loopback():
        return
    from ray.serve._private import replica

    module: Any = replica
    add_port = module.add_port_to_grpc_server
    module.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))
