"""Several jobs at once, each a TorchTrainer that a thread of the driver waits for."""

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

import ray

from saltray.distributed.capacity import JobResources
from saltray.distributed.cluster import kill_trainers
from saltray.distributed.jobs import Job
from saltray.distributed.ray_internals import remove_orphaned_placement_groups
from saltray.distributed.trainer import TrainLoop, run_job

JOIN_S = 10.0
"""Longest wait for the threads of jobs that were stopped."""


@dataclass(frozen=True)
class JobOutcome:
    """A job that has ended."""

    job: Job
    value: Any
    """What rank 0 returned, or the exception."""


class JobPool:
    """Jobs that run at once; a context manager.

    When its block is left by an exception, Ctrl-C for one, all jobs are stopped and Ray is shut down, also where the
    caller connected to it: no job may continue to train unattended.

    Args:
        resources: what a job needs.
    """

    def __init__(self, resources: JobResources) -> None:
        self._resources = resources
        self._ended: queue.Queue[JobOutcome] = queue.Queue()
        self._threads: list[threading.Thread] = []

    def start(self, train_loop: TrainLoop, job: Job) -> None:
        """Start a job; `wait` returns it when it has ended."""
        # Daemons: whatever happens, the process must not wait for them at its end.
        thread = threading.Thread(target=self._run, args=(train_loop, job), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, train_loop: TrainLoop, job: Job) -> None:
        try:
            value = run_job(train_loop, job, self._resources)
        except Exception as error:  # whatever Ray raises ends this job alone
            value = error
        self._ended.put(JobOutcome(job, value))

    def wait(self, seconds: float) -> JobOutcome | None:
        """A job that has ended, or None if none has within this time."""
        remove_orphaned_placement_groups()
        try:
            return self._ended.get(timeout=seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        deadline = time.monotonic() + JOIN_S
        while (alive := [thread for thread in self._threads if thread.is_alive()]) and time.monotonic() < deadline:
            kill_trainers()  # repeatedly: a thread may be about to start one
            alive[0].join(0.1)
        ray.shutdown()
