"""Several jobs at once, each a TorchTrainer that a thread of the driver waits for."""

import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any, Self

from saltray.distributed.capacity import JobResources
from saltray.distributed.cluster import end_ray_job
from saltray.distributed.jobs import Job
from saltray.distributed.ray_internals import RANK, live_actors, remove_orphaned_placement_groups
from saltray.distributed.trainer import TrainLoop, run_job

log = logging.getLogger(__name__)


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
        try:
            remove_orphaned_placement_groups()
        except Exception:  # whatever Ray raises when its GCS is away; the jobs themselves tell whether it stays away
            log.debug("cannot look for orphaned placement groups now", exc_info=True)
        try:
            return self._ended.get(timeout=seconds)
        except queue.Empty:
            return None

    def lacks_ranks(self) -> bool:
        """Whether a job lacks a rank: it waits for its nodes. False where Ray does not tell."""
        running = sum(thread.is_alive() for thread in self._threads)
        try:
            return len(live_actors(RANK)) < running * self._resources.ranks
        except Exception:  # as above
            log.debug("cannot count the ranks now", exc_info=True)
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            end_ray_job(self._threads)
