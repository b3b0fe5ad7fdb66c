"""The page of a store: its finished runs in one table that a reader can sort, and the others below it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import ascii_uppercase

from saltray.report.templating import script_source, template
from saltray.training.evaluation import Interval


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A finished run."""

    run: str
    score: float | None
    """Cross-fitted; None of a run of an older version, as are the next two."""
    interval: Interval | None
    """Of `score`, over tiles."""
    spread: float | None
    """Standard deviation over folds; None of one fold, too."""
    plain: float
    """Score at a probability of 0.5."""
    baseline: float
    """Score of predicting no salt anywhere."""
    recipe: str | None
    network: str
    lr: float
    epochs: int
    folds: int
    tiles: int
    seconds: float
    """Time in the training loops of all folds together."""
    finished: float
    """When the last fold was done: seconds since 1970."""
    ensemble: str
    """Its newest version."""
    comparable: str
    """Equal for runs on the same tiles and split."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that is not finished, or cannot be read."""

    run: str
    state: str
    done: int
    """Folds that are done."""
    count: int
    told: str
    """What cannot be read; empty where all can."""


@dataclass(frozen=True, kw_only=True)
class RunsReport:
    """All that the page of a store shows."""

    store: str
    """Its URI."""
    finished: Sequence[RunLine]
    others: Sequence[OpenRun]


def render_runs(report: RunsReport) -> str:
    """One self-contained HTML page; the finished runs by falling score."""
    rows = sorted(report.finished, key=lambda row: (-(-1.0 if row.score is None else row.score), row.run))
    ends = [end for row in rows if row.interval is not None for end in (row.interval.low, row.interval.high)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.05 * (high - low) or 0.01
    script, source = script_source("runs.js")
    return template("runs.html.j2").render(
        report=report,
        store=shlex.quote(report.store),
        rows=rows,
        groups=_groups(rows),
        low=low - margin,
        width=high - low + 2 * margin,
        dates={row.run: f"{datetime.fromtimestamp(row.finished, UTC):%Y-%m-%d %H:%M}" for row in rows},
        script=script,
        source=source,
    )


def _groups(rows: Sequence[RunLine]) -> dict[str, str]:
    """A short name for each set of runs that can be compared: A for that of the first row."""
    names: dict[str, str] = {}
    for row in rows:
        number = len(names)
        letter = ascii_uppercase[number % 26]
        names.setdefault(row.comparable, f"{letter}{number // 26}" if number >= 26 else letter)
    return names
