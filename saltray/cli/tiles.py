"""How many tiles are read or predicted: a bar on a terminal, a line now and then in a log file."""

from rich.console import RenderableType

from saltray.cli.live import BarLine
from saltray.progress import Event, TilesImported, TilesPredicted

LINE_S = 10.0
"""Least time between two lines of a log file."""
LINE_SHARE = 0.1
"""Least share of the tiles between them."""


class Tiles:
    """The tiles of an import or a prediction.

    Args:
        total: number of tiles.
        what: is done with them, in a word.
        now: the time.
        done: tiles that are done at this time.
    """

    def __init__(self, total: int, what: str, now: float, done: int = 0) -> None:
        self._total = total
        self._what = what
        self._start = self._last = self._line_at = now
        self._first = self._done = self._line_done = done

    def take(self, event: Event, now: float) -> bool:
        """Take in what happened, and say whether the bar shows all of it."""
        if not isinstance(event, TilesImported | TilesPredicted):
            return False
        self._done, self._total, self._last = event.done, event.total, now
        return True

    def is_line_due(self) -> bool:
        """Whether a log file gets a line now; if so, the next one is due later."""
        due = self._last - self._line_at >= LINE_S and self._done - self._line_done >= LINE_SHARE * self._total
        if due:
            self._line_at, self._line_done = self._last, self._done
        return due

    @property
    def ended(self) -> bool:
        """Whether all tiles are done."""
        return self._done >= self._total

    def seconds_left(self, now: float) -> float | None:
        """Until all are done, at the pace so far; None where none has been seen."""
        if self._done <= self._first or self._last <= self._start:
            return None
        pace = (self._last - self._start) / (self._done - self._first)
        return max((self._total - self._done) * pace - (now - self._last), 0.0)

    def draw(self, now: float, _height: int) -> list[RenderableType]:
        """The bar."""
        counts = [f"{self._what} {self._done:,} of {self._total:,} tiles"]
        return [BarLine(self._done, self._total, counts, self.seconds_left(now))]
