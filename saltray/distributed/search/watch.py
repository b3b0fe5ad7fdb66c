"""What the driver sees of a search: each epoch as it comes, on the terminal and in the store when a trial ends."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ray import tune
from rich.live import Live
from rich.table import Table

from saltray.distributed.console import console
from saltray.distributed.runtime import free_orphans
from saltray.distributed.search.events import write_events
from saltray.distributed.search.plan import Plan
from saltray.distributed.search.records import Status, Trial, conclude
from saltray.distributed.search.table import STYLES, trials_table, values_text
from saltray.distributed.search.transient import Transient
from saltray.distributed.search.trial import REASON, STATUS
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.training.engine import EpochMetrics

EPOCH = tuple(field.name for field in dataclasses.fields(EpochMetrics))
PAUSE_S = 1.0
ROWS = 20
"""Trials that the live table shows; with more than that, those that run and the best."""


class Watch(Transient, tune.Callback):
    """Ray Tune's callback for a search.

    Args:
        plan: the search.
        store: its part of the store.
        trials: those that were proposed before.
        lock: of the search; once it is lost, nothing more is written.
    """

    def __init__(self, plan: Plan, store: Store, trials: Iterable[Trial], lock: RunLock) -> None:
        self._plan = plan
        self._lock = lock
        self._store = store
        self._trials = {trial.index: trial for trial in trials}
        self._freed = 0.0

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in order."""
        return [self._trials[index] for index in sorted(self._trials)]

    def showing(self) -> AbstractContextManager[Any]:
        """Shows a table that follows the trials, on a terminal; elsewhere each epoch is a line of its own."""
        if not console.is_terminal:
            return nullcontext()
        return Live(get_renderable=self._live_table, console=console, refresh_per_second=2, transient=True)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Free what stopped trials had reserved, for those that wait."""
        if time.monotonic() - self._freed > PAUSE_S:
            free_orphans()
            self._freed = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show what is tried; also when Tune starts a trial again whose process has died."""
        now = self._of(trial)
        self._put(dataclasses.replace(now, status="running", reason=None))
        self._say(f"{now.name}  {values_text(now)}" + (f"  (from epoch {len(now.epochs)})" if now.epochs else ""))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Take in an epoch, or the last report, which says how the trial ended."""
        now = self._of(trial)
        if STATUS in result:
            whole = tuple(dict(epoch) for epoch in result.get("epochs", now.epochs))
            self._end(dataclasses.replace(now, epochs=whole), result[STATUS], result.get(REASON))
            return
        epoch = {name: result[name] for name in EPOCH}
        # One that is reported again comes in place of the one before: a worker was lost, and the trial went back.
        before = tuple(known for known in now.epochs if known["epoch"] < epoch["epoch"])
        now = dataclasses.replace(now, epochs=(*before, epoch))
        self._put(now)
        score = "" if epoch["score"] is None else f"  score {epoch['score']:.4f}"
        self._say(f"{now.name}  epoch {epoch['epoch']:>3}/{self._plan.config.train.epochs}{score}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that did not say how it ended was stopped."""
        now = self._of(trial)
        if now.status == "running" and not self._lock.lost.is_set():
            self._end(now, "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's own process died, and again when tried once more."""
        self._end(self._of(trial), "failed", "its process on the driver's node died; was it out of memory?")

    def _of(self, trial: Any) -> Trial:
        parameters = trial.config
        return self._trials.get(parameters["index"], Trial(index=parameters["index"], values=parameters["values"]))

    def _put(self, trial: Trial) -> None:
        self._trials[trial.index] = trial

    def _end(self, trial: Trial, status: Status, reason: str | None = None) -> None:
        ended = dataclasses.replace(trial, status=status, reason=reason)
        self._put(ended)
        conclude(self._store, ended)
        write_events(self._store, ended)
        best = ended.best
        score = f"  best score {best['score']:.4f} in epoch {best['epoch']}" if best else ""
        why = f": {reason}" if reason else ""
        self._say(f"{ended.name}  {status} after epoch {len(ended.epochs)}{score}{why}", style=STYLES[status])

    def _say(self, line: str, style: str | None = None) -> None:
        """A line for a log file; on a terminal the table says the same."""
        if not console.is_terminal:
            console.print(line, style=style)

    def _live_table(self) -> Table:
        running = [trial for trial in self.trials if trial.status == "running"]
        others = sorted(
            (trial for trial in self.trials if trial.status != "running"), key=lambda trial: trial.rank, reverse=True
        )
        shown = [*running, *others][:ROWS]
        left = len(self._trials) - len(shown)
        title = f"{len(others)} of up to {self._plan.trials} trials ended" + (f", {left} not shown" if left else "")
        return trials_table(shown, self._plan, title)
