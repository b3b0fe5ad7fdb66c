"""A job as a TorchTrainer: Ray Train's controller, and one worker per rank."""

from collections.abc import Callable, Sequence
from typing import Any

from saltray.distributed.capacity import JobResources
from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.jobs import Job, LoopConfig
from saltray.distributed.process_death import rank_deaths
from saltray.distributed.ray_internals import (
    CheckpointConfig,
    FailureConfig,
    LocalTorchConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    Trainer,
    UserCallback,
    is_on_loopback,
    raised_by_rank,
)
from saltray.errors import ResourceError, RunLockedError, StorageError
from saltray.runs.layout import ERROR
from saltray.storage.arrow import arrow_filesystem


class StopAtFault(UserCallback):
    """Ends a job whose store refuses or whose memory is short: Ray would retry, and each retry would meet that again.

    The store has retried by itself what may pass.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        for error in worker_exceptions.values():
            if isinstance(fault := raised_by_rank(error), StorageError | RunLockedError | ResourceError):
                raise fault


def store_fault(error: BaseException) -> StorageError | RunLockedError | None:
    """The fault of the store, or the loss of the lock, that ended a job; None if that was something else."""
    cause = raised_by_rank(error)
    return cause if isinstance(cause, StorageError | RunLockedError) else None


TrainLoop = Callable[[LoopConfig], Any]
"""What each rank runs."""


def run_job(train_loop: TrainLoop, job: Job, resources: JobResources, callbacks: Sequence[UserCallback] = ()) -> Any:
    """Run a job's ranks to their end; what rank 0 returned.

    Raises:
        TrainingFailedError: workers were lost too often, or the loop raised.
    """
    untyped: Any = train_loop  # Ray declares a plain dict
    local = is_on_loopback()
    trainer = Trainer(
        untyped,
        train_loop_config={"job": job},
        torch_config=LocalTorchConfig() if local else None,
        scaling_config=ScalingConfig(
            num_workers=resources.ranks, use_gpu=resources.gpus > 0, resources_per_worker=resources.bundle
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=".",
            storage_filesystem=arrow_filesystem(job.parent),
            failure_config=FailureConfig(max_failures=job.config.cluster.max_failures, controller_failure_limit=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={} if local else {"env_vars": {"OMP_WAIT_POLICY": "passive"}},
            callbacks=[StopAtFault(), *callbacks],
        ),
    )
    result: Any = trainer.fit()  # its declared type is that of Train v1
    return result.return_value


def failure_reason(job: Job, error: Exception) -> str:
    """One line for the user; the whole text goes to the store beside the job."""
    text = str(error).strip() or type(error).__name__
    cause = raised_by_rank(error)
    reason = str(cause) if isinstance(cause, ResourceError) else cause_in_a_line(text)
    for name, death in rank_deaths(text).items():
        reason = f"{name} {death.reason}"
        text = f"{text}\n{death.log}\n{reason}"
    return f"{reason} ({write_error(job, text)})"


def write_error(job: Job, text: str) -> str:
    """Write why a job failed beside it; returns where, or why that is not possible."""
    try:
        job.home.put(ERROR, (text + "\n").encode())
    except Exception as broken:  # whatever it is, the user must see the job's own fault
        return f"and the store: {broken}"
    return f"full text: {job.home.uri}/{ERROR}"
