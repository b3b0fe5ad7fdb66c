"""What saltray uses of Ray beyond its public API: each with its reason, and a test that fails when Ray changes it.

`ray` is pinned to the minor version that these were tested with. Nothing else in the package touches a private name.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.annotations import RayDeprecationWarning

# By these paths Ray Train v2 has types; `ray.train` has those of v1, or of v2, by an environment variable.
__all__ = [
    "CheckpointConfig",
    "FailureConfig",
    "LoggingConfig",
    "RunConfig",
    "ScalingConfig",
    "Trainer",
    "UserCallback",
]

PLACEMENT_GROUP_CLEANER = "PlacementGroupCleanerCallback"
CONTROLLER = "TrainController"
"""Class of the actor that runs a job of Ray Train."""
RANK = "RayTrainWorker"
"""Class of the actor that is one rank of it."""


class Trainer(TorchTrainer):
    """A TorchTrainer without the helper process that removes placement groups of dead controllers.

    That helper needs Ray's dashboard, which not every cluster has, and costs a process per job; saltray calls
    `remove_orphaned_placement_groups` instead.
    """

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != PLACEMENT_GROUP_CLEANER]


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
