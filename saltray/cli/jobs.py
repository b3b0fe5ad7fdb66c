"""How far the folds of a run, or a pretraining, are: the state behind the live table."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import RenderableType

from saltray.cli.live import BarLine, FittingTable, LiveColumn
from saltray.cli.status import duration
from saltray.progress import (
    CapacityFound,
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldResumed,
    FoldStarted,
    FoldWaiting,
    PretrainEpoch,
    PretrainPlanned,
    PretrainResumed,
    PretrainWaiting,
    RunPlanned,
)

JobState = Literal["queued", "starting", "training", "retrying", "done", "failed"]
STYLES: dict[JobState, str | None] = {
    "queued": "dim",
    "starting": None,
    "training": "cyan",
    "retrying": "yellow",
    "done": "green",
    "failed": "red",
}
TABLE_LINES = 7
"""Lines of a table without its rows, of the bar, and of what was printed last."""
FOLD_COLUMNS = (
    LiveColumn("fold", 0),
    LiveColumn("state", 0, right=False),
    LiveColumn("epoch", 0),
    LiveColumn("images/s", 4),
    LiveColumn("loss", 2),
    LiveColumn("score", 0),
    LiveColumn("best", 3),
    LiveColumn("left", 1),
)
PRETRAIN_COLUMNS = (
    LiveColumn("name", 2, right=False),
    LiveColumn("state", 0, right=False),
    LiveColumn("epoch", 0),
    LiveColumn("images/s", 1),
    LiveColumn("loss", 0),
)


@dataclass
class JobRow:
    """What is known of one job; all times are of the caller's clock."""

    name: str
    epochs: int
    state: JobState = "queued"
    epoch: int = 0
    """Finished epochs."""
    images_per_second: float | None = None
    loss: float | None = None
    score: float | None = None
    """The last; at the end, that of the result."""
    best: float | None = None
    since: float = 0.0
    """Start of the time in which `counted` epochs were finished."""
    last: float = 0.0
    """End of that time."""
    counted: int = 0
    started: bool = False
    """Whether `since` is the start of the job, which takes longer than an epoch's."""

    def start(self, now: float) -> None:
        """It was handed to Ray."""
        self.state, self.since, self.last, self.started = "starting", now, now, True

    def resume(self, epoch: int, now: float) -> None:
        """It continues from a checkpoint: of an earlier command, or after it lost a worker in this one."""
        self.state = "retrying" if self.state in ("training", "retrying") else "starting"
        self.epoch, self.counted, self.since, self.last, self.started = epoch, 0, now, now, True

    def wait(self) -> None:
        """It has no nodes: not yet, or not any more."""
        if self.state == "training":
            self.state = "retrying"

    def train(self, epoch: int, loss: float, score: float | None, images_per_second: float, now: float) -> None:
        """It finished an epoch."""
        if self.started and self.counted:  # the first one, with all that comes before it, says little
            self.since, self.counted, self.started = self.last, 0, False
        self.state, self.epoch, self.loss, self.images_per_second = "training", epoch, loss, images_per_second
        if score is not None:
            self.score = score
            self.best = score if self.best is None else max(self.best, score)
        self.last = now
        self.counted += 1

    def end(self, state: JobState, score: float | None = None) -> None:
        """It is done, or failed."""
        self.state = state
        if score is not None:
            self.score, self.epoch = score, self.epochs

    @property
    def active(self) -> bool:
        """Whether it is neither queued nor ended."""
        return self.state in ("starting", "training", "retrying")

    @property
    def ended(self) -> bool:
        """Whether it is done, or failed."""
        return self.state in ("done", "failed")

    @property
    def pace(self) -> float | None:
        """Seconds of an epoch; None before the first."""
        return (self.last - self.since) / self.counted if self.counted else None

    def seconds_left(self, now: float, pace: float | None) -> float | None:
        """Until it is done, at its own pace, or else at this one."""
        own = self.pace if self.pace is not None else pace
        if own is None:
            return None
        gone = min(now - self.last, own) if self.active else 0.0
        return max((self.epochs - self.epoch) * own - gone, 0.0)


@dataclass
class Jobs:
    """All jobs of a command.

    Args:
        title: of the whole.
        columns: of the table.
        rows: the jobs by key.
        concurrency: how many run at once.
    """

    title: str
    columns: tuple[LiveColumn, ...]
    rows: dict[int, JobRow]
    concurrency: int

    @classmethod
    def of_run(cls, planned: RunPlanned, found: CapacityFound) -> "Jobs":
        """The folds of a run that are about to be trained."""
        rows = {fold: JobRow(str(fold), planned.epochs) for fold in found.folds}
        return cls(f"run {planned.run}", FOLD_COLUMNS, rows, found.concurrency)

    @classmethod
    def of_pretraining(cls, planned: PretrainPlanned, now: float) -> "Jobs":
        """A pretraining, which starts."""
        row = JobRow(planned.name, planned.epochs)
        row.start(now)
        return cls(f"pretraining {planned.name}", PRETRAIN_COLUMNS, {0: row}, 1)

    def take(self, event: Event, now: float) -> bool:
        """Take in what happened, and say whether the table shows all of it."""
        row = self.rows.get(getattr(event, "fold", 0))
        if row is None:
            return False
        match event:
            case FoldStarted():
                row.start(now)
            case FoldResumed() | PretrainResumed():
                row.resume(event.epoch, now)
            case FoldWaiting() | PretrainWaiting():
                row.wait()
            case FoldEpoch():
                row.train(event.epoch, event.loss, event.score, event.images_per_second, now)
            case PretrainEpoch():
                row.train(event.epoch, event.loss, None, event.images_per_second, now)
            case FoldFinished():
                row.end("done", event.score)
            case FoldFailed():
                row.end("failed")
        return isinstance(event, FoldStarted | FoldEpoch | PretrainEpoch)

    @property
    def failed(self) -> bool:
        """Whether any has."""
        return any(row.state == "failed" for row in self.rows.values())

    @property
    def ended(self) -> bool:
        """Whether all have."""
        return all(row.ended for row in self.rows.values())

    def seconds_left(self, now: float) -> float | None:
        """Until all are done; None before the first epoch."""
        paces = [pace for row in self.rows.values() if (pace := row.pace) is not None]
        if not paces:
            return None
        pace = sum(paces) / len(paces)
        left = {key: row.seconds_left(now, pace) or 0.0 for key, row in self.rows.items() if not row.ended}
        running = [seconds for key, seconds in left.items() if self.rows[key].active]
        queued = [seconds for key, seconds in left.items() if not self.rows[key].active]
        return finished_after(running, queued, self.concurrency)

    def draw(self, now: float, height: int) -> list[RenderableType]:
        """The table, of a height at most, and the bar."""
        rows = list(self.rows.values())  # a copy: this is a thread of its own
        room = max(1, height - TABLE_LINES)
        shown = rows
        if len(rows) > room:  # those that run count most, then what failed, then what comes next
            order = sorted(rows, key=lambda row: (not row.active, row.state != "failed", row.state != "queued"))
            kept = {row.name for row in order[:room]}
            shown = [row for row in rows if row.name in kept]
        pace = [row.pace for row in rows if row.pace is not None]
        mean = sum(pace) / len(pace) if pace else None
        table = FittingTable(self.columns, [(self._cells(row, now, mean), STYLES[row.state]) for row in shown])
        return [table, self._bar(rows, now, len(rows) - len(shown))]

    def _cells(self, row: JobRow, now: float, mean: float | None) -> list[str]:
        left = None if row.ended or not row.active else row.seconds_left(now, mean)
        values = {
            "fold": row.name,
            "name": row.name,
            "state": row.state,
            "epoch": f"{row.epoch}/{row.epochs}",
            "images/s": "" if row.images_per_second is None or not row.active else f"{row.images_per_second:.0f}",
            "loss": "" if row.loss is None else f"{row.loss:.4f}",
            "score": "" if row.score is None else f"{row.score:.4f}",
            "best": "" if row.best is None else f"{row.best:.4f}",
            "left": "" if left is None else duration(left),
        }
        return [values[column.name] for column in self.columns]

    def _bar(self, rows: list[JobRow], now: float, hidden: int) -> BarLine:
        done, total = sum(row.epoch for row in rows), sum(row.epochs for row in rows)
        if self.ended:
            return BarLine(done, total, [f"{self.title}: scores and publishes"], None)
        ended = sum(row.ended for row in rows)
        counts = [f"{self.title}: {done} of {total} epochs"]
        if len(rows) > 1:
            counts.append(f"{ended} of {len(rows)} folds ended")
        if hidden:
            counts.append(f"{hidden} not shown")
        return BarLine(done, total, counts, self.seconds_left(now))


def finished_after(running: Iterable[float], queued: Iterable[float], slots: int) -> float:
    """Seconds until all jobs are done, of which each queued one starts when another ends."""
    ends = list(running)
    heapq.heapify(ends)
    last = max(ends, default=0.0)
    for seconds in queued:
        start = heapq.heappop(ends) if len(ends) >= max(1, slots) else 0.0
        heapq.heappush(ends, start + seconds)
        last = max(last, start + seconds)
    return last
