"""Each name of Ray's that is not public does what saltray relies on; a test fails when Ray changes it."""

import io
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import datasets, placement_group_callback
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from saltray.distributed import ray_internals, setup_worker
from saltray.distributed.ray_internals import (
    LEFT_OUT,
    LocalTorchConfig,
    ScalingConfig,
    Trainer,
    head_address,
    is_on_loopback,
    kill_actor,
    live_actors,
    node_here,
    on_loopback,
    own_token,
    remove_orphaned_placement_groups,
    remove_placement_groups,
    reread_skipped_messages,
    reread_uv_setting,
)


@pytest.mark.parametrize(
    "name", ["CheckpointConfig", "FailureConfig", "LoggingConfig", "RunConfig", "ScalingConfig", "UserCallback"]
)
def test_the_types_are_those_that_ray_train_exports(name: str) -> None:
    assert getattr(ray_internals, name) is getattr(ray.train, name)


def callbacks_of(kind: type[TorchTrainer]) -> list[str]:
    trainer: Any = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1))
    return [type(callback).__name__ for callback in trainer._create_default_callbacks()]


def test_a_trainer_has_all_default_callbacks_but_those_that_start_a_helper() -> None:
    assert issubclass(Trainer, TorchTrainer)
    default = callbacks_of(TorchTrainer)
    helpers = (placement_group_callback.PlacementGroupCleanerCallback, datasets.DatasetsCallback)
    assert tuple(helper.__name__ for helper in helpers) == LEFT_OUT
    assert [default.count(name) for name in LEFT_OUT] == [1, 1]
    assert callbacks_of(Trainer) == [name for name in default if name not in LEFT_OUT]


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "timed out after 60 s"
        time.sleep(0.05)


@ray.remote(num_cpus=0)
class GroupOwner:
    """Reserves a little CPU, as Ray Train's controller does for its ranks."""

    def start_another(self) -> str:
        self.other = GroupOwner.remote()  # type: ignore[attr-defined]
        ray.get(self.other.__ray_ready__.remote())
        return str(self.other._actor_id.hex())

    def reserve(self) -> PlacementGroup:
        group = placement_group([{"CPU": 0.01}])
        ray.get(group.ready(), timeout=60)
        return group


@ray.remote(num_cpus=0)
class Bystander:
    def answer(self) -> int:
        return 1


def is_reserved(group: PlacementGroup) -> bool:
    return bool(placement_group_table(group)["state"] == "CREATED")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_actors_are_found_by_class_and_killed_and_their_placement_groups_removed() -> None:
    killed: Any = GroupOwner.remote()  # type: ignore[attr-defined]
    alive: Any = GroupOwner.remote()  # type: ignore[attr-defined]
    bystander: Any = Bystander.remote()  # type: ignore[attr-defined]
    orphan, owned = ray.get([killed.reserve.remote(), alive.reserve.remote()], timeout=60)
    own = placement_group([{"CPU": 0.01}])  # of this process
    ray.get(own.ready(), timeout=60)
    ids = {name: actor._actor_id.hex() for name, actor in (("killed", killed), ("alive", alive), ("by", bystander))}
    assert sorted(live_actors("GroupOwner")) == sorted([ids["killed"], ids["alive"]])
    assert set(live_actors("GroupOwner", "Bystander")) == set(ids.values())
    assert live_actors("NoSuchClass") == []

    kill_actor(ids["killed"])
    until(lambda: live_actors("GroupOwner") == [ids["alive"]])
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(killed.reserve.remote(), timeout=60)
    assert is_reserved(orphan)  # otherwise Ray removes it itself now, and our function can go
    remove_orphaned_placement_groups()
    until(lambda: not is_reserved(orphan))
    assert is_reserved(owned)
    assert is_reserved(own)

    remove_placement_group(own)
    for actor in (alive, bystander):
        ray.kill(actor)
    until(lambda: live_actors("GroupOwner", "Bystander") == [])
    remove_orphaned_placement_groups()


def test_what_a_dead_creator_has_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray leaves where a group is created as its job ends: about one job in five, so it is not waited for here."""
    own, ended, other = (bytes([number]) * 4 for number in (1, 2, 3))
    dead, alive = (ray.ActorID.from_random() for _ in range(2))
    nobody = ray.ActorID.nil()
    groups = {
        "of a dead actor": (own, dead),
        "of a live actor": (own, alive),
        "of this process": (own, nobody),
        "of an ended job": (ended, nobody),
        "of an actor of an ended job": (ended, ray.ActorID.from_random()),
        "of a running job": (other, nobody),
    }
    table = [
        SimpleNamespace(name=name, creator_job_id=job, creator_actor_id=actor.binary())
        for name, (job, actor) in groups.items()
    ]
    removed: list[str] = []
    monkeypatch.setattr(ray_internals, "_job_id", lambda: own)
    monkeypatch.setattr(ray_internals, "_placement_groups", lambda: table)
    monkeypatch.setattr(
        ray_internals, "_actors", lambda: {dead.hex(): {"State": "DEAD"}, alive.hex(): {"State": "ALIVE"}}
    )
    monkeypatch.setattr(ray_internals, "_ended_jobs", lambda: {ended})
    monkeypatch.setattr(ray_internals, "_remove", lambda group: removed.append(group.name))
    remove_orphaned_placement_groups()
    assert removed == ["of a dead actor", "of an ended job", "of an actor of an ended job"]


CONNECT = """
import sys
import ray
from saltray.distributed.ray_internals import on_loopback

with on_loopback():
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_jobs_and_groups_are_read_as_ray_keeps_them() -> None:
    address = ray.get_runtime_context().gcs_address
    before = ray_internals._ended_jobs()
    subprocess.run([sys.executable, "-c", CONNECT, address], check=True, timeout=120)
    assert len(ray_internals._ended_jobs() - before) == 1
    own = placement_group([{"CPU": 0.01}])
    ray.get(own.ready(), timeout=60)
    remove_orphaned_placement_groups()
    assert is_reserved(own)
    assert remove_placement_groups() >= 1
    until(lambda: not is_reserved(own))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_an_actor_of_an_actor_is_killed_with_it() -> None:
    outer: Any = GroupOwner.remote()  # type: ignore[attr-defined]
    inner = ray.get(outer.start_another.remote(), timeout=60)
    assert not kill_actor(inner)  # which this process has no handle of
    assert set(live_actors("GroupOwner")) == {outer._actor_id.hex(), inner}
    assert kill_actor(outer._actor_id.hex())
    until(lambda: live_actors("GroupOwner") == [])


@pytest.mark.parametrize(("value", "enabled"), [("0", False), ("1", True)])
def test_the_uv_setting_counts_also_after_ray_was_imported(
    value: str, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants: Any = ray._private.ray_constants
    # The name exists; that Ray goes by it, test_cluster.py shows under `uv run`.
    monkeypatch.setattr(constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", not enabled)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", value)
    reread_uv_setting()
    assert constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is enabled


def test_skipped_messages_count_also_after_ray_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.ray_logging import stdout_deduplicator
    from ray._private.worker import print_to_stdstream

    monkeypatch.setattr(stdout_deduplicator, "skip_re", None)
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "died or was")

    def printed(line: str) -> str:
        """What the driver prints of a raylet's message."""
        with redirect_stdout(io.StringIO()) as out:
            print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
        return out.getvalue()

    assert "killed once" in printed("A worker died or was killed once")
    reread_skipped_messages()
    assert printed("A worker died or was killed twice") == ""
    assert "no space left" in printed("no space left")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_workers_of_a_ray_of_our_own_are_set_up_by_our_script() -> None:
    (raylet,) = ray._private.worker._global_node.all_processes["raylet"]
    (command,) = [word for word in raylet.process.args if word.startswith("--python_worker_command=")]
    assert shlex.split(command)[1] == setup_worker.__file__
    assert Path(setup_worker.__file__).name == ray._private.ray_constants.SETUP_WORKER_FILENAME  # as it was


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_workers_get_no_folder_of_the_drivers_on_their_import_path() -> None:
    worker: Any = ray._private.worker.global_worker
    assert list(worker.core_worker.get_job_config().py_driver_sys_path) == []
    assert not ray.job_config.JobConfig()._runtime_env_has_working_dir()


@pytest.mark.parametrize("given", ["", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_ray_has_a_token_of_its_own_unless_one_is_given(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "mine")
    core: Any = ray._raylet
    real = core.AuthenticationTokenLoader  # by which the tests' own Ray reads its token
    loader = Mock(spec=real)
    loader.instance.return_value = Mock(spec=real.instance())
    monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", loader)
    before = os.environ.copy()
    with own_token():
        token = os.environ.get("RAY_AUTH_TOKEN", "")
        assert (os.environ == before) == bool(given)
        assert given or len(token) == 64
    assert os.environ == before
    assert loader.instance().reset_cache.call_count == (0 if given else 2)


def test_a_token_that_is_gone_at_the_end_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", Mock())
    with own_token():
        del os.environ["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_ray_of_our_own_is_told_to_listen_on_the_loopback(fails: bool) -> None:
    """That it does, test_exposure.py shows."""
    constants: Any = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    with suppress(KeyError), on_loopback():
        assert constants.ENABLE_RAY_CLUSTER is False
        if fails:
            raise KeyError
    assert constants.ENABLE_RAY_CLUSTER is before


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_ray_of_our_own_is_known_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_on_loopback()
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    assert not is_on_loopback()


@pytest.mark.parametrize(("use_gpu", "backend"), [(False, "gloo"), (True, "nccl")])
def test_ranks_that_meet_by_a_file_talk_by_the_library_of_their_device(use_gpu: bool, backend: str) -> None:
    scaling = ScalingConfig(num_workers=2, use_gpu=use_gpu)
    trainer: Any = Trainer(lambda: None, torch_config=LocalTorchConfig(), scaling_config=scaling)
    assert isinstance(trainer.backend_config, LocalTorchConfig)
    assert trainer.backend_config.backend == backend


def test_the_head_that_ray_address_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    assert head_address() == "10.1.2.3:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: {"10.4.5.6:1"})
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    assert head_address() == "10.4.5.6:1"
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(OSError, match="Could not find any running Ray instance"):
        head_address()


def test_a_node_is_known_by_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.process_iter", lambda _: [])
    assert not node_here()
