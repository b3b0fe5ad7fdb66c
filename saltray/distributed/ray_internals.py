"""What saltray uses of Ray beyond its public API: each with its reason, and a test that fails when Ray changes it.

`ray` is pinned to the minor version that these were tested with. Nothing else in the package touches a private name.
"""

import os
import re
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
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
from ray.util.annotations import RayDeprecationWarning

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


PLACEMENT_GROUP_CLEANER = "PlacementGroupCleanerCallback"
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
    """A TorchTrainer without the helper process that removes placement groups of dead controllers.

    That helper needs Ray's dashboard, which not every cluster has, and costs a process per job; saltray calls
    `remove_orphaned_placement_groups` instead.
    """

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != PLACEMENT_GROUP_CLEANER]


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
    """Ids of the live actors of these classes that belong to the Ray job of this process.

    Ray's public state API asks the dashboard, which a local Ray of ours does not start.
    """
    from ray._private.state import state

    actors = state.actor_table(None, job_id=_core_worker().get_current_job_id())
    return [key for key, actor in actors.items() if actor["ActorClassName"] in classes and actor["State"] != "DEAD"]


def kill_actor(actor: str) -> None:
    """Kill an actor by its id. `ray.kill` needs a handle, and Ray Train hands out none of its controllers."""
    _core_worker().kill_actor(ray.ActorID.from_hex(actor), True)


def remove_orphaned_placement_groups() -> None:
    """Remove the placement groups of this Ray job whose creator died; otherwise their resources stay reserved.

    Ray keeps a placement group until both its creator and its job are dead. The public table has no creator.
    """
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    messages: Any = gcs_pb2
    table_data = messages.PlacementGroupTableData
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()).binary()
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = table_data.FromString(raw)
        orphaned = group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil()
        if orphaned and group.creator_job_id == job and group.state != table_data.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


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
    """`ray.shutdown`, but SIGTERM keeps its handler.

    Ray's core sets it to what ends the process at once, behind Python's back, long before its processes have ended.
    """
    from ray._private.state import state

    untyped: Any = state
    handler, disconnect = signal.getsignal(signal.SIGTERM), untyped.disconnect

    def restore() -> None:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def restore_first() -> None:  # Ray calls this next
        restore()
        disconnect()

    untyped.disconnect = restore_first
    try:
        ray.shutdown()
    finally:
        untyped.disconnect = disconnect
        restore()


@contextmanager
def remote_args_allowed() -> Iterator[None]:
    """Silence Ray Data's warning that options such as `max_restarts` will be passed in another way from 2.64 on.

    In 2.60 there is no other way yet.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def _core_worker() -> Any:
    worker: Any = ray._private.worker.global_worker
    return worker.core_worker
