"""Several folds at once: each its own TorchTrainer, started when it fits, watched from one thread of the driver."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saltray.distributed.admission import Demand
from saltray.distributed.console import console
from saltray.distributed.history import read_lines
from saltray.distributed.jobs import Job, Stopped
from saltray.distributed.run_records import ERROR
from saltray.distributed.trainers import Ended, Team, keep_reason, reason
from saltray.distributed.worker import run
from saltray.ensemble.manifest import FoldResult
from saltray.errors import StorageError

POLL_S = 0.5
PATIENCE_S = 300.0
"""Time without a line of a fold after which the user is told that it waits, and again after as long."""


@dataclass(frozen=True)
class Outcome:
    """How one fold ended: a result, or the reason for having none."""

    fold: int
    result: FoldResult | None = None
    failure: str | None = None
    again: bool = True
    """Whether the same settings may succeed at another try."""


def fit_folds(jobs: list[Job], demand: Demand, slots: int, still_ours: Callable[[], None]) -> list[Outcome]:
    """Train the folds, at most `slots` at once; a fold that fails leaves the others running.

    Args:
        jobs: one a fold.
        demand: what one fold takes.
        slots: how many folds the cluster holds at once.
        still_ours: raises when the run's lock was lost.
    """
    for job in jobs:
        job.home.delete(ERROR)  # of an earlier attempt
    with Team(demand) as team:
        return _fit_folds(deque(jobs), slots, still_ours, team)


def _fit_folds(waiting: "deque[Job]", slots: int, still_ours: Callable[[], None], team: Team) -> list[Outcome]:
    running: dict[str, _Progress] = {}
    outcomes: list[Outcome] = []
    while waiting or running:
        while waiting and len(running) < slots:
            job = waiting.popleft()
            running[job.name] = _Progress(job)
            team.start(run, job)
        if (ended := team.wait(POLL_S)) is None:
            still_ours()
            for progress in running.values():
                progress.show()
            continue
        running.pop(ended.job.name).show()
        outcomes.append(outcome := _outcome(ended))
        console.print(_ending(outcome, waiting), style="red" if outcome.failure else "green")
    return outcomes


def _outcome(ended: Ended) -> Outcome:
    (fold,) = ended.job.folds
    match ended.answer:
        case FoldResult() as result:
            return Outcome(fold, result=result)
        case Stopped(reason=text):
            keep_reason(ended.job, text)
            return Outcome(fold, failure=text, again=False)
        case Exception() as error:
            return Outcome(fold, failure=reason(ended.job, error))
        case other:
            return Outcome(fold, failure=f"rank 0 returned {other!r} in place of a result; please report this")


class _Progress:
    """Prints a fold's new epochs, as they appear in the store: one line an epoch."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._label = f"fold {job.folds[0]}"
        # Epochs of an earlier attempt were shown then.
        self._shown = {record["at"] for record in self._read()}
        self._started = time.monotonic()
        self._told = self._started
        self._begun = False

    def show(self) -> None:
        for record in self._read():
            if record["at"] not in self._shown:
                self._shown.add(record["at"])
                self._begun = True
                console.print(self._line(record))
        now = time.monotonic()
        if not self._begun and now - self._told > PATIENCE_S:
            self._told = now
            waited = f"{(now - self._started) / 60:.0f} min"
            console.print(f"{self._label}  has waited {waited} for its machines; `ray status` on the head tells why")

    def _read(self) -> list[dict[str, Any]]:
        try:
            return read_lines(self._job.home)
        except StorageError:  # a store that is away for a moment does not stop the folds
            return []

    def _line(self, record: dict[str, Any]) -> str:
        if "note" in record:
            return f"{self._label}  {record['note']}"
        score = "" if record["score"] is None else f"  score {record['score']:.4f}"
        return (
            f"{self._label}  epoch {record['epoch']:>3}/{self._job.config.train.epochs}"
            f"  loss {record['loss']:.4f}{score}  {record['images_per_second']:.0f} images/s"
        )


def _ending(outcome: Outcome, waiting: "deque[Job]") -> str:
    line = f"fold {outcome.fold}  "
    if outcome.result is not None:
        line += f"done  score {outcome.result.score:.4f}  {outcome.result.seconds:.0f} s"
    else:
        line += "failed; the others go on"
    return line + (f"  ({len(waiting)} waiting in line)" if waiting else "")
