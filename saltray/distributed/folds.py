"""Several folds at once: each its own TorchTrainer, started when it fits, watched from one thread of the driver."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from saltray.distributed.admission import Demand
from saltray.distributed.console import console
from saltray.distributed.history import read_lines
from saltray.distributed.runtime import joins_cluster
from saltray.distributed.worker import FoldJob, Stopped, run
from saltray.ensemble import FoldResult
from saltray.errors import StorageError
from saltray.storage import arrow_filesystem

POLL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """How one fold ended: a result, or the reason for having none."""

    fold: int
    result: FoldResult | None = None
    failure: str | None = None
    again: bool = True
    """Whether the same settings may succeed at another try."""


def fit_folds(jobs: list[FoldJob], demand: Demand, slots: int, still_ours: Callable[[], None]) -> list[Outcome]:
    """Train the folds, at most `slots` at once; a fold that fails leaves the others running.

    Args:
        jobs: one a fold.
        demand: what one fold takes.
        slots: how many folds the cluster holds at once.
        still_ours: raises when the run's lock was lost.
    """
    try:
        return _fit_folds(deque(jobs), demand, slots, still_ours)
    except BaseException:
        # Ctrl-C, or a lost lock: no fold may train on unwatched, also where the caller connected to Ray.
        ray.shutdown()
        raise


def _fit_folds(waiting: "deque[FoldJob]", demand: Demand, slots: int, still_ours: Callable[[], None]) -> list[Outcome]:
    running: dict[int, _Progress] = {}
    ended: queue.Queue[Outcome] = queue.Queue()
    outcomes: list[Outcome] = []
    while waiting or running:
        while waiting and len(running) < slots:
            job = waiting.popleft()
            running[job.fold] = _Progress(job)
            # Daemons: after Ctrl-C the process must not wait for them; Ray takes their workers down.
            threading.Thread(target=lambda job=job: ended.put(_fit(job, demand)), daemon=True).start()
        try:
            outcome = ended.get(timeout=POLL_S)
        except queue.Empty:
            still_ours()
            for progress in running.values():
                progress.show()
            continue
        running.pop(outcome.fold).show()
        outcomes.append(outcome)
        console.print(_ending(outcome, waiting), style="red" if outcome.failure else "green")
    return outcomes


def _fit(job: FoldJob, demand: Demand) -> Outcome:
    """Run one fold to its end, in a thread of the driver; whatever happens becomes an outcome."""
    try:
        ended: Any = _trainer(job, demand).fit()  # its declared type is the one of Train v1
    except Exception as error:  # whatever Ray raises ends this fold alone
        return Outcome(job.fold, failure=_reason(job, error))
    match ended.return_value:
        case FoldResult() as result:
            return Outcome(job.fold, result=result)
        case Stopped(reason=reason):
            return Outcome(job.fold, failure=reason, again=False)
        case other:
            return Outcome(job.fold, failure=f"rank 0 returned {other!r} in place of a result; please report this")


def _trainer(job: FoldJob, demand: Demand) -> TorchTrainer:
    env = {"env_vars": {"OMP_WAIT_POLICY": "passive"}} if joins_cluster() else {}
    return TorchTrainer(
        run,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=demand.ranks, use_gpu=demand.gpus > 0, resources_per_worker=demand.bundle
        ),
        run_config=RunConfig(
            name=f"fold-{job.fold}",
            storage_path=".",
            storage_filesystem=arrow_filesystem(job.run),
            failure_config=FailureConfig(max_failures=job.config.cluster.max_failures, controller_failure_limit=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env=env,
        ),
    )


def _reason(job: FoldJob, error: Exception) -> str:
    """One line for the table; the whole traceback goes to the store beside the fold."""
    text = str(error).strip() or type(error).__name__
    key = f"fold-{job.fold}/error.txt"
    try:
        job.run.put(key, (text + "\n").encode())
    except Exception as broken:  # whatever it is, the fold's own fault is what the user must see
        return f"{text.splitlines()[-1]} (and the store: {broken})"
    return f"{text.splitlines()[-1]} (whole text: {job.run.uri}/{key})"


class _Progress:
    """Prints a fold's new epochs, as they appear in the store: one line an epoch."""

    def __init__(self, job: FoldJob) -> None:
        self._job = job
        self._store = job.run.sub(f"fold-{job.fold}")
        # Epochs of an earlier attempt were shown then.
        self._shown = {record["at"] for record in self._read()}

    def show(self) -> None:
        for record in self._read():
            if record["at"] not in self._shown:
                self._shown.add(record["at"])
                console.print(self._line(record))

    def _read(self) -> list[dict[str, Any]]:
        try:
            return read_lines(self._store)
        except StorageError:  # a store that is away for a moment does not stop the folds
            return []

    def _line(self, record: dict[str, Any]) -> str:
        if "note" in record:
            return f"fold {self._job.fold}  {record['note']}"
        score = "" if record["score"] is None else f"  score {record['score']:.4f}"
        return (
            f"fold {self._job.fold}  epoch {record['epoch']:>3}/{self._job.config.train.epochs}"
            f"  loss {record['loss']:.4f}{score}  {record['images_per_second']:.0f} images/s"
        )


def _ending(outcome: Outcome, waiting: "deque[FoldJob]") -> str:
    line = f"fold {outcome.fold}  "
    if outcome.result is not None:
        line += f"done  score {outcome.result.score:.4f}  {outcome.result.seconds:.0f} s"
    else:
        line += "failed; the others go on"
    return line + (f"  ({len(waiting)} waiting in line)" if waiting else "")
