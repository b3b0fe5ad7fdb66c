"""Events on the terminal: a line each, a table for the split, and a live table for the trials of a search."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from saltray.cli.tables import TRIAL_STYLES, split_table, trials_table
from saltray.progress import (
    Event,
    FoldFinished,
    FoldsMissing,
    FoldStarted,
    Published,
    RunPlanned,
    TilesPredicted,
    TrialEnded,
    TrialEpoch,
    TrialsEnded,
    TrialsRunning,
    TrialStarted,
    TrialState,
)

LIVE_ROWS = 20
"""Trials that the live table shows; of more than that, those that run and the best."""


@dataclass
class TerminalObserver:
    """An observer that draws."""

    console: Console
    _trials: dict[str, TrialState] = field(default_factory=dict)
    _running: TrialsRunning | None = None
    _live: Live | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunPlanned():
                self.console.print(str(event))
                self.console.print(split_table(event.split))
            case TrialsRunning():
                self._running = event
                self._trials = {trial.name: trial for trial in event.known}
                if self.console.is_terminal:
                    self._live = Live(
                        get_renderable=self._live_table, console=self.console, refresh_per_second=2, transient=True
                    )
                    self._live.start()
            case TrialStarted(trial=trial) | TrialEpoch(trial=trial) | TrialEnded(trial=trial):
                self._trials[trial.name] = trial
                if self._live is None:  # a line for a log file; on a terminal the table shows the same
                    style = TRIAL_STYLES[trial.status] if isinstance(event, TrialEnded) else None
                    self.console.print(str(event), style=style)
            case TrialsEnded():
                if self._live is not None:
                    self._live.stop()
                    self._live = None
            case TilesPredicted():  # one line of a terminal, over and over; a log file gets the result alone
                if self.console.is_terminal:
                    self.console.print(str(event), end="\n" if event.done == event.total else "\r")
            case FoldStarted() | FoldsMissing() | Published():  # the next epoch, and the result, tell as much
                pass
            case _:
                style = "red" if event.failure else "green" if isinstance(event, FoldFinished) else None
                self.console.print(str(event), style=style)

    def _live_table(self) -> Table:
        assert self._running is not None
        trials = list(self._trials.values())  # a copy: this is a thread of its own
        running = [trial for trial in trials if trial.status == "running"]
        ended = [trial for trial in trials if trial.status != "running"]
        ended.sort(key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)
        shown = [*running, *ended][:LIVE_ROWS]
        hidden = len(trials) - len(shown)
        title = f"{len(ended)} of up to {self._running.limit} trials ended" + (
            f", {hidden} not shown" if hidden else ""
        )
        return trials_table(shown, self._running.fields, title)
