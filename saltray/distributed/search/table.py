"""Trials as a table for a person."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from saltray.distributed.search.plan import Plan
from saltray.distributed.search.records import Trial

STYLES = {"running": "cyan", "finished": "green", "stopped": "dim", "diverged": "red", "failed": "red"}


def trials_table(trials: Iterable[Trial], plan: Plan, title: str) -> Table:
    """One row a trial, in the order given."""
    table = Table("trial", *plan.space_text, "epochs", "score", "in epoch", "", title=title, title_justify="left")
    for trial in trials:
        best = trial.best
        table.add_row(
            trial.name,
            *(_number(trial.values[field]) for field in plan.space_text),
            f"{len(trial.epochs)}/{plan.config.train.epochs}",
            f"{best['score']:.4f}" if best else "",
            str(best["epoch"]) if best else "",
            trial.status,
            style=STYLES[trial.status],
        )
    return table


def values_text(trial: Trial) -> str:
    """What a trial tries, on one line."""
    return "  ".join(f"{field} {_number(value)}" for field, value in trial.values.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
