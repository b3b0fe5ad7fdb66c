"""Events on the terminal: what passes is a line each; folds, trials and tiles are drawn live, below the lines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, RenderableType

from saltray.cli.jobs import Jobs
from saltray.cli.live import Screen
from saltray.cli.tables import TRIAL_STYLES, split_table
from saltray.cli.tiles import Tiles
from saltray.cli.trials import Trials
from saltray.progress import (
    CapacityFound,
    Event,
    FoldFinished,
    FoldsMissing,
    FoldStarted,
    PredictionPlanned,
    PretrainEpoch,
    PretrainPlanned,
    Published,
    RayConnected,
    RunPlanned,
    TilesImported,
    TilesPredicted,
    TrialEnded,
    TrialsEnded,
    TrialsRunning,
)


class View(Protocol):
    """What is drawn live of something that takes time."""

    def take(self, event: Event, now: float) -> bool:
        """Take in what happened, and say whether all of it is drawn."""
        ...

    def draw(self, now: float, height: int, /) -> Sequence[RenderableType]:
        """What to show now, in so many lines."""
        ...


@dataclass
class TerminalObserver:
    """An observer that draws. Without a terminal, all is lines.

    Args:
        console: where to draw.
        clock: tells the time, in seconds.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    _planned: RunPlanned | PretrainPlanned | None = None
    _view: View | None = None
    _screen: Screen | None = None
    _logs: str = ""

    def __call__(self, event: Event) -> None:
        now = self.clock()
        if isinstance(self._view, Tiles) and not isinstance(event, TilesImported | TilesPredicted):
            self.close()
        if isinstance(event, TilesImported | TilesPredicted) and not isinstance(self._view, Tiles):
            what = "predicted" if isinstance(event, TilesPredicted) else "read"
            self._open(Tiles(event.total, what, now, event.done))
        shown = self._view is not None and self._view.take(event, now) and self._screen is not None
        if not shown:
            self._print(event)
        self._follow(event, now)

    def end(self) -> None:
        """The command has ended: nothing more is drawn, and Ray's logs are named if it was used."""
        self.close()
        logs, self._logs = self._logs, ""
        if logs:
            self.console.print(f"Ray logs  {logs}")

    def close(self) -> None:
        """Nothing more is drawn, and the terminal is as it was."""
        screen, self._screen, self._view = self._screen, None, None
        if screen is not None:
            screen.stop()

    def _open(self, view: View) -> None:
        self.close()
        self._view = view
        if self.console.is_interactive:
            self._screen = Screen(self.console, lambda: view.draw(self.clock(), self.console.height))

    def _follow(self, event: Event, now: float) -> None:
        """Open and close the views."""
        match event, self._view:
            case (RunPlanned() | PretrainPlanned()) as planned, _:
                self._planned = planned
            case CapacityFound(job="fold"), _ if isinstance(self._planned, RunPlanned):
                self._open(Jobs.of_run(self._planned, event))
            case CapacityFound(job="pretraining"), _ if isinstance(self._planned, PretrainPlanned):
                self._open(Jobs.of_pretraining(self._planned, now))
            case TrialsRunning(), _:
                self._open(Trials(event, now))
            case PredictionPlanned(), _:
                self._open(Tiles(event.tiles, "predicted", now))
            case RayConnected(logs=logs), _:
                self._logs = logs
            case PretrainEpoch(), Jobs() if event.epoch == event.epochs:
                self.close()
            case TrialsEnded() | FoldsMissing() | Published(), _:
                self.close()
            case _, Tiles(ended=True):
                self.close()
            case _, Jobs(ended=True, failed=True):
                self.close()

    def _print(self, event: Event) -> None:
        """A line, or more."""
        match event:
            case RunPlanned():
                self.console.print(str(event))
                self.console.print(split_table(event.split))
            case TrialEnded(trial=trial):
                self.console.print(str(event), style=TRIAL_STYLES[trial.status])
            case TilesImported() | TilesPredicted():
                if isinstance(self._view, Tiles) and self._view.is_line_due():
                    self.console.print(str(event))
            case FoldStarted() | FoldsMissing() | Published():  # the next epoch, and the result, tell as much
                pass
            case TrialsRunning() | TrialsEnded() | RayConnected():
                pass
            case _:
                style = "red" if event.failure else "green" if isinstance(event, FoldFinished) else None
                self.console.print(str(event), style=style)
