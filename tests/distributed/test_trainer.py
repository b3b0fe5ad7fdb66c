"""A job as Ray Train runs it, and what is kept of its failure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from saltray.config import ClusterConfig
from saltray.distributed.capacity import JobResources
from saltray.distributed.jobs import Job, LoopConfig
from saltray.distributed.ray_internals import CONTROLLER, RANK, RunConfig, live_actors
from saltray.distributed.trainer import StopAtFault, failure_reason, run_job, store_fault, write_error
from saltray.errors import ResourceError, RunLockedError, StorageError
from saltray.storage.base import Store

MakeJob = Callable[..., Job]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_ranks_get_the_job_and_rank_0_answers(make_job: MakeJob, home: Store) -> None:
    job = make_job(3)

    def loop(loop_config: LoopConfig) -> dict[str, Any]:
        import os

        import ray
        import ray.train
        import torch.distributed

        train, core = ray.train.get_context(), ray.get_runtime_context()
        return {
            "job": loop_config["job"].name,
            "rank": (train.get_world_rank(), train.get_world_size()),
            "cpus": core.get_assigned_resources()["CPU"],
            "me": core.get_actor_id(),
            "ranks": live_actors(RANK),
            "controllers": live_actors(CONTROLLER),
            "server": [name for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ],
            "backend": torch.distributed.get_backend(),
        }

    told = run_job(loop, job, JobResources(2, 0.5, 0))
    assert (told["job"], told["rank"], told["cpus"]) == ("fold-3", (0, 2), 0.5)
    # Ray's classes have these names, by which saltray finds and kills them.
    assert told["me"] in told["ranks"]
    assert (len(told["ranks"]), len(told["controllers"])) == (2, 1)
    # They have found each other by a file, not by a server that anybody can reach.
    assert (told["server"], told["backend"]) == ([], "gloo")
    # Ray's own records of the job went through the store.
    assert [entry.key for entry in home.list("fold-3")]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("kind", [StorageError, RunLockedError])
def test_a_job_whose_store_refuses_is_not_retried(kind: type[Exception], make_job: MakeJob, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"

    def loop(loop_config: LoopConfig) -> None:
        with attempts.open("a") as file:
            file.write("x")
        raise kind("No space left on device; free some space there")

    with pytest.raises(Exception, match="No space left on device") as caught:
        run_job(loop, make_job(4), JobResources(1, 0.5, 0))
    fault = store_fault(caught.value)
    assert (type(fault), str(fault)) == (kind, "No space left on device; free some space there")
    assert attempts.read_text() == "x"


def test_only_the_stores_own_faults_are_the_stores() -> None:
    full = StorageError("full")
    assert store_fault(full) is full
    assert store_fault(WorkerGroupError("rank 1", {1: full})) is full
    assert store_fault(ControllerError(full)) is full
    for error in (RuntimeError("x"), ControllerError(RuntimeError("x")), WorkerGroupError("x", {0: RuntimeError("x")})):
        assert store_fault(error) is None


@pytest.mark.parametrize(("cluster", "retries"), [(ClusterConfig(), 2), (ClusterConfig(max_failures=7), 7)])
def test_a_job_is_retried_as_often_as_configured(
    cluster: ClusterConfig, retries: int, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RunConfig] = []

    class FakeTrainer:
        def __init__(self, loop: Any, *, run_config: RunConfig, **settings: Any) -> None:
            given.append(run_config)

        def fit(self) -> Any:
            return type("Result", (), {"return_value": None})

    monkeypatch.setattr("saltray.distributed.trainer.Trainer", FakeTrainer)
    job = make_job(0)
    run_job(lambda loop_config: None, replace(job, config=replace(job.config, cluster=cluster)), JobResources(1, 1, 0))
    assert given[0].failure_config is not None
    assert given[0].failure_config.max_failures == retries
    assert given[0].name == "fold-0"


def test_the_last_line_of_a_failure_is_told_and_all_of_it_is_kept(make_job: MakeJob) -> None:
    job = make_job(1)
    reason = failure_reason(job, RuntimeError("Traceback ...\n  at some place\nValueError: it broke\n"))
    assert reason == f"ValueError: it broke (full text: {job.home.uri}/error.txt)"
    assert job.home.get("error.txt") == b"Traceback ...\n  at some place\nValueError: it broke\n"
    assert failure_reason(job, TimeoutError()).startswith("TimeoutError (full text: ")


@pytest.mark.parametrize("wrap", [lambda error: WorkerGroupError("rank 1", {1: error}), ControllerError])
def test_memory_that_a_rank_lacks_is_told_in_the_words_of_saltray(
    wrap: Callable[[Exception], Exception], make_job: MakeJob
) -> None:
    job = make_job(1)
    reason = failure_reason(job, wrap(ResourceError("the GPU has 79.1 GiB; use less")))
    assert reason == f"the GPU has 79.1 GiB; use less (full text: {job.home.uri}/error.txt)"


@pytest.mark.parametrize("kind", [StorageError, RunLockedError, ResourceError])
def test_faults_that_a_retry_would_meet_again_end_a_job(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="full"):
        StopAtFault().after_exception(None, {0: RuntimeError("NCCL: rank 1 is gone"), 1: kind("full")})
    StopAtFault().after_exception(None, {0: RuntimeError("killed")})


def test_a_store_that_cannot_keep_a_failure_does_not_hide_it(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Store, key: str, data: bytes) -> None:
        raise StorageError("the store is away")

    job = make_job(1)
    monkeypatch.setattr(type(job.parent), "put", refuse)
    assert write_error(job, "it broke") == "and the store: the store is away"
    assert failure_reason(job, ValueError("it broke")) == "it broke (and the store: the store is away)"
