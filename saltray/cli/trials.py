"""How far the trials of a search are: the state behind the live table."""

from rich.console import RenderableType

from saltray.cli.jobs import TABLE_LINES
from saltray.cli.live import BarLine, FittingTable, LiveColumn
from saltray.cli.tables import TRIAL_STYLES
from saltray.progress import Event, TrialEnded, TrialEpoch, TrialsRunning, TrialStarted, TrialState, number_text

LIVE_ROWS = 20
"""Trials that the live table shows at most; of more than that, those that run and the best."""


class Trials:
    """The trials of a search.

    Args:
        running: tells of them.
        now: the time.
    """

    def __init__(self, running: TrialsRunning, now: float) -> None:
        self._limit = running.limit
        self._fields = running.fields
        self._trials = {trial.name: trial for trial in running.known}
        self._start = self._last = now
        self._ended_before = self._ended

    def take(self, event: Event, now: float) -> bool:
        """Take in what happened, and say whether the table shows all of it."""
        if not isinstance(event, TrialStarted | TrialEpoch | TrialEnded):
            return False
        self._trials[event.trial.name] = event.trial
        if isinstance(event, TrialEnded):
            self._last = now
        return not event.failure

    @property
    def _ended(self) -> int:
        return sum(trial.status != "running" for trial in list(self._trials.values()))

    def seconds_left(self, now: float) -> float | None:
        """Until as many trials have ended as may run, at the pace of those that ended now; None before the first."""
        ended = self._ended
        if ended <= self._ended_before:
            return None
        pace = (self._last - self._start) / (ended - self._ended_before)
        return max((self._limit - ended) * pace - (now - self._last), 0.0)

    def draw(self, now: float, height: int) -> list[RenderableType]:
        """The table, of a height at most, and the bar."""
        trials = list(self._trials.values())  # a copy: this is a thread of its own
        running = [trial for trial in trials if trial.status == "running"]
        ended = [trial for trial in trials if trial.status != "running"]
        ended.sort(key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)
        shown = [*running, *ended][: min(LIVE_ROWS, max(1, height - TABLE_LINES))]
        columns = (
            LiveColumn("trial", 0, right=False),
            *(LiveColumn(name, 2) for name in self._fields),
            LiveColumn("epochs", 0),
            LiveColumn("score", 0),
            LiveColumn("in epoch", 3),
            LiveColumn("state", 1, right=False),
        )
        table = FittingTable(columns, [(self._cells(trial), TRIAL_STYLES[trial.status]) for trial in shown])
        counts = [f"{len(ended)} of up to {self._limit} trials ended"]
        if hidden := len(trials) - len(shown):
            counts.append(f"{hidden} not shown")
        return [table, BarLine(len(ended), self._limit, counts, self.seconds_left(now))]

    def _cells(self, trial: TrialState) -> list[str]:
        return [
            trial.name,
            *(number_text(trial.values[field]) for field in self._fields),
            f"{trial.epochs}/{trial.length}",
            "" if trial.score is None else f"{trial.score:.4f}",
            "" if trial.best_epoch is None else str(trial.best_epoch),
            trial.status,
        ]
