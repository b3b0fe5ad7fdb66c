"""A job as a TorchTrainer: Ray Train's controller, and a rank a worker; several of them at once, in threads."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from saltray.distributed.admission import Demand
from saltray.distributed.jobs import Job
from saltray.distributed.run_records import ERROR
from saltray.distributed.runtime import end_trainers, free_orphans, joins_cluster
from saltray.storage.arrow import arrow_filesystem

Loop = Callable[[dict[str, Any]], Any]
"""What each rank runs; it gets the job as `job`."""
END_S = 10.0
"""Longest wait for the threads of jobs that were stopped."""


class _Trainer(TorchTrainer):
    """Without Ray Train's helper that frees placement groups: `free_orphans` does that, with a process less a job."""

    def _create_default_callbacks(self) -> Any:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def fit(loop: Loop, job: Job, demand: Demand, callbacks: Sequence[UserCallback] = ()) -> Any:
    """Run `loop` on the job's ranks to its end; what rank 0 returned.

    Raises:
        TrainingFailedError: workers were lost too often, or the loop raised.
    """
    trainer = _Trainer(
        loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=demand.ranks, use_gpu=demand.gpus > 0, resources_per_worker=demand.bundle
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=".",
            storage_filesystem=arrow_filesystem(job.run),
            failure_config=FailureConfig(max_failures=job.config.cluster.max_failures, controller_failure_limit=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "passive"}} if joins_cluster() else {},
            callbacks=list(callbacks),
        ),
    )
    ended: Any = trainer.fit()  # its declared type is the one of Train v1
    return ended.return_value


def reason(job: Job, error: Exception) -> str:
    """One line for the table; the whole traceback goes to the store beside the job."""
    text = str(error).strip() or type(error).__name__
    kept = keep_reason(job, text)
    return f"{text.splitlines()[-1]} ({kept})"


def keep_reason(job: Job, text: str) -> str:
    """Write why a job failed beside it, for who asks later; says where, or why that is not possible."""
    try:
        job.home.put(ERROR, (text + "\n").encode())
    except Exception as broken:  # whatever it is, the job's own fault is what the user must see
        return f"and the store: {broken}"
    return f"whole text: {job.home.uri}/{ERROR}"


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    job: Job
    answer: Any
    """What rank 0 returned, or the exception."""


class Team:
    """Jobs that run at once, each waited for by a thread; a context manager.

    When its block is left by an exception, Ctrl-C for one, all jobs are stopped and Ray is shut down, also where the
    caller connected to it: no job may train on unwatched.

    Args:
        demand: what a job takes.
    """

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._ended: queue.Queue[Ended] = queue.Queue()
        self._threads: list[threading.Thread] = []

    def start(self, loop: Loop, job: Job) -> None:
        """Run a job; `wait` gives it back when it has ended."""
        # Daemons: whatever happens, the process must not wait for them at its end.
        thread = threading.Thread(target=self._run, args=(loop, job), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, loop: Loop, job: Job) -> None:
        try:
            answer = fit(loop, job, self._demand)
        except Exception as error:  # whatever Ray raises ends this job alone
            answer = error
        self._ended.put(Ended(job, answer))

    def wait(self, seconds: float) -> Ended | None:
        """A job that has ended, or None when none has after some time."""
        free_orphans()
        try:
            return self._ended.get(timeout=seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        give_up = time.monotonic() + END_S
        while (left := [thread for thread in self._threads if thread.is_alive()]) and time.monotonic() < give_up:
            end_trainers()  # again and again: a thread may be about to start one
            left[0].join(0.1)
        ray.shutdown()
