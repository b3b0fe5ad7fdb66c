"""The status of runs and pretrainings as a person reads it."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Column, Table

from saltray.runs.layout import ERROR, fold_folder
from saltray.search.objective import best_epoch

if TYPE_CHECKING:
    from saltray.runs.status import FoldStatus, PretrainStatus, RunStatus, RunSummary

STYLES = {
    "running": "cyan",
    "training": "cyan",
    "finished": "green",
    "done": "green",
    "failed": "red",
    "other version": "yellow",
    "stale": "red",
    "corrupted": "red",
    "queued": "dim",
    "not started": "dim",
}


def print_run(console: Console, status: "RunStatus") -> None:
    """A line about the run, a row per fold, what failed, and what was published."""
    console.print(f"run {status.run} in {status.uri}: {status.state}, {_owner(status)}")
    table = _narrow("fold", "state", "epoch", "score", "best", "images/s", "saved", "last record", "left")
    for fold in status.folds:
        table.add_row(*_row(fold), style=STYLES.get(fold.state))
    console.print(table)
    for fold in status.folds:
        if fold.error is not None:
            text = f"{status.uri}/{fold_folder(fold.fold)}/{ERROR}"
            console.print(f"fold {fold.fold} failed: {fold.error} (full text: {text})", style="red")
    _print_faults(console, status.faults)
    console.print(f"folds done: {status.done} of {status.count}{_remedy(status)}")
    if (manifest := status.manifest) is not None:
        if (honest := manifest.evaluation) is not None:
            console.print(f"out-of-fold score {honest.score:.4f}, 95 % interval {honest.interval}")
        console.print(f"at a probability of 0.5: {manifest.score:.4f}; masks by {manifest.postprocess}")
        console.print(f"ensemble  {status.ensemble}")


def print_runs(console: Console, runs: Sequence["RunSummary"]) -> None:
    """A row per run, and what cannot be read."""
    table = _narrow("run", "state", "folds done", "last sign of life", "owner")
    for run in runs:
        owner = ["", ""] if run.owner is None else [_ago(run.owner.at), str(run.owner)]
        table.add_row(run.run, run.state, f"{run.done}/{run.count}", *owner, style=STYLES.get(run.state))
    console.print(table)
    _print_all_faults(console, runs)


def print_pretrainings(console: Console, pretrainings: Sequence["PretrainStatus"]) -> None:
    """A row per pretraining, what failed, what cannot be read, and the weights that are there."""
    table = _narrow("pretraining", "state", "epoch", "loss", "last sign of life", "owner")
    for one in pretrainings:
        last = one.epochs[-1] if one.epochs else None
        owner = ["", ""] if one.owner is None else [_ago(one.owner.at), str(one.owner)]
        epoch, loss = f"{last.epoch if last else 0}/{one.of}", f"{last.loss:.4f}" if last else ""
        table.add_row(one.name, one.state, epoch, loss, *owner, style=STYLES.get(one.state))
    console.print(table)
    for one in pretrainings:
        if one.error is not None:
            console.print(f"pretraining {one.name} failed: {one.error} (full text: {one.uri}/{ERROR})", style="red")
        if one.state == "finished":
            console.print(f"weights of {one.name}: {one.weights}")
    _print_all_faults(console, pretrainings)


def _print_all_faults(console: Console, rows: Sequence["RunSummary | PretrainStatus"]) -> None:
    for row in rows:
        if row.state == "other version":
            for fault in row.faults:
                console.print(fault, style=STYLES[row.state])
        else:
            _print_faults(console, row.faults)


def _print_faults(console: Console, faults: Iterable[str]) -> None:
    for fault in faults:
        console.print(f"corrupted: {fault}", style="red")


def _narrow(*columns: str) -> Table:
    """A table that fits 80 columns but for long names, which take several lines there."""
    folded = (Column(name, overflow="fold") for name in columns)
    return Table(*folded, box=box.SIMPLE_HEAD, show_edge=False, padding=0)


def _row(fold: "FoldStatus") -> list[str]:
    last = fold.epochs[-1] if fold.epochs else None
    scored = next((epoch for epoch in reversed(fold.epochs) if epoch.score is not None), None)
    best = best_epoch(fold.epochs)
    score = fold.result.score if fold.result is not None else scored.score if scored is not None else None
    return [
        str(fold.fold),
        fold.state,
        f"{last.epoch if last else 0}/{fold.of}",
        "" if score is None else f"{score:.4f}",
        f"{best.score:.4f} in {best.epoch}" if best else "",
        f"{last.images_per_second:.0f}" if last else "",
        "" if fold.checkpoint is None else str(fold.checkpoint),
        _ago(fold.at),
        "" if fold.left is None else duration(fold.left),
    ]


def _owner(run: "RunSummary") -> str:
    if run.owner is None:
        return "no process has worked on it"
    what = "released" if run.owner.released else "last sign of life"
    return f"{run.owner}, {what} {_ago(run.owner.at) or 'at an unknown time'}"


def _remedy(run: "RunSummary") -> str:
    if run.state in ("running", "finished"):
        return ""
    what = "publishes the ensemble" if run.done == run.count else "trains the rest"
    return f"; the same command as before {what}"


def _ago(at: float | None) -> str:
    return "" if at is None else f"{duration(time.time() - at)} ago"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
