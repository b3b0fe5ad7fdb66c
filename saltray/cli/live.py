"""What is redrawn on a terminal while a command runs: a table that fits, a bar, and how they share the screen."""

import locale
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Column, Table
from rich.text import Text

from saltray.cli.status import duration

BAR_WIDTH = (8, 40)
"""Least and most columns of a bar; where there are fewer left, there is none."""
ECHO = 3
"""Columns left free after the last line, where the terminal echoes ^C; else it would begin a row that is not erased."""


class LocalConsole(Console):
    """A console that draws in ASCII where the locale says so; under LC_ALL=C Python itself writes UTF-8."""

    @property
    def encoding(self) -> str:
        """Decides the characters of frames and bars."""
        return super().encoding if locale.getencoding().lower().startswith("utf") else "ascii"


@dataclass(frozen=True)
class LiveColumn:
    """A column of a live table.

    Args:
        name: its head.
        rank: 0 stays, and of the others the highest goes first where the terminal is narrow.
        right: whether its cells are numbers.
    """

    name: str
    rank: int
    right: bool = True


@dataclass(frozen=True)
class FittingTable:
    """A table that leaves out columns rather than cut cells off.

    Args:
        columns: from left to right.
        rows: the cells and the style of each.
    """

    columns: Sequence[LiveColumn]
    rows: Sequence[tuple[Sequence[str], str | None]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths()
        shown = self._shown(widths, options.max_width)
        heads = (self.columns[at] for at in shown)
        table = Table(
            *(
                Column(head.name, justify="right" if head.right else "left", no_wrap=True, overflow="crop")
                for head in heads
            )
        )
        for cells, style in self.rows:
            table.add_row(*(cells[at] for at in shown), style=style)
        # What is wider than the terminal even so is cut at its right end, rather than each column.
        yield from console.render(table, options.update_width(sum(widths[at] for at in shown) + 1))

    def _widths(self) -> list[int]:
        """Of each column, with its padding and a line."""
        return [
            max(cell_len(column.name), *(cell_len(cells[at]) for cells, _ in self.rows), 0) + 3
            for at, column in enumerate(self.columns)
        ]

    def _shown(self, widths: Sequence[int], width: int) -> list[int]:
        """Positions of the columns that fit."""
        shown = list(range(len(self.columns)))
        while sum(widths[at] for at in shown) + 1 > width:
            least = max(shown, key=lambda at: (self.columns[at].rank, at))
            if self.columns[least].rank == 0:
                break
            shown.remove(least)
        return shown


@dataclass(frozen=True)
class BarLine:
    """A bar with its numbers, in one line.

    Args:
        done: of `total`.
        total: what is to be done.
        counts: says the same in words, the most important first; the last go first where the terminal is narrow.
        seconds: time left; None where it is not known.
    """

    done: float
    total: float
    counts: Sequence[str]
    seconds: float | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        share = self.done / self.total if self.total else 0.0
        always = [f"{math.floor(100 * share):>3}%"]
        left = [] if self.seconds is None else [f"{duration(self.seconds)} left"]
        counts = list(self.counts)
        texts = [*always, *counts, *left]
        free = options.max_width - ECHO
        while counts and _width(texts) + BAR_WIDTH[0] > free:
            counts.pop()
            texts = [*always, *counts, *left]
        room = free - _width(texts)
        line = Table.grid(padding=(0, 2, 0, 0))
        cells: list[RenderableType] = [Text(text, no_wrap=True) for text in texts]
        if room >= BAR_WIDTH[0]:
            width = min(room, BAR_WIDTH[1])
            cells.insert(0, ProgressBar(total=self.total, completed=self.done, width=width))
        line.add_row(*cells)
        yield line


def _width(texts: Iterable[str]) -> int:
    return sum(cell_len(text) + 2 for text in texts)


class Screen:
    """What is redrawn below the lines that are printed, and removed at the end.

    Args:
        console: a terminal.
        draw: gives what to show now; called in a thread of its own.
    """

    def __init__(self, console: Console, draw: Callable[[], Sequence[RenderableType]]) -> None:
        self._console = console
        self._draw = draw
        self._width = console.width
        self._drawn: list[int] = []
        self._live = Live(
            get_renderable=self._frame,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # what goes to a file stays there
        )
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Remove it, and show the cursor."""
        self._live.stop()

    def _frame(self) -> Group:
        frame = Group(*self._draw())
        width = self._console.width
        if width < self._width:  # the terminal has broken the lines that were drawn, and they take more rows now
            rows = sum(-(-line // width) - 1 for line in self._drawn if line)
            up = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
            self._console.control(Control(*up * rows))
        self._width = width
        lines = self._console.render_lines(frame, pad=False)
        self._drawn = [Segment.get_line_length(line) for line in lines]
        return frame
