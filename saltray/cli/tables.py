"""Results as a person reads them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from saltray.progress import FoldShare, TrialState, number_text
from saltray.search.layout import (
    BEST,
    FIGURE,
    RANGE_TEST_FIGURE,
    RANGE_TEST_NUMBERS,
    TENSORBOARD,
    TRIALS,
    search_folder,
)

if TYPE_CHECKING:
    from saltray.commands.pretrain import PretrainResult
    from saltray.commands.range_test import RangeTestResult
    from saltray.commands.train import TrainResult
    from saltray.commands.tune import SearchResult
    from saltray.data.summary import DatasetSummary
    from saltray.ensemble.versions import EnsembleVersion

TRIAL_STYLES = {"running": "cyan", "finished": "green", "stopped": "dim", "diverged": "red", "failed": "red"}
RANGE_TEST_ROWS = 20
"""Steps that the table of a range test shows, about."""


def split_table(split: Iterable[FoldShare]) -> Table:
    """A row per fold."""
    table = Table("fold", "tiles", "empty", "coverage", title="split", title_justify="left")
    for row in split:
        table.add_row(str(row.fold), str(row.tiles), f"{row.empty_share:.1%}", f"{row.coverage:.1%}")
    return table


def trials_table(trials: Iterable[TrialState], fields: Sequence[str], title: str) -> Table:
    """A row per trial, in the order given."""
    columns = ("trial", *fields, "epochs", "score", "in epoch", "")
    # On a terminal that is too narrow, names and values of fields take several lines; nothing is cut off.
    wrapped = (Column(name, overflow="fold", no_wrap=name not in fields) for name in columns)
    table = Table(*wrapped, title=title, title_justify="left")
    for trial in trials:
        table.add_row(
            trial.name,
            *(number_text(trial.values[field]) for field in fields),
            f"{trial.epochs}/{trial.length}",
            "" if trial.score is None else f"{trial.score:.4f}",
            "" if trial.best_epoch is None else str(trial.best_epoch),
            trial.status,
            style=TRIAL_STYLES[trial.status],
        )
    return table


def print_train(console: Console, result: "TrainResult") -> None:
    """Scores of the held-out tiles, the ensemble, the report."""
    title = f"run {result.run}: held-out tiles"
    table = Table("fold", "tiles", "score", f"at {result.threshold:.2f}", "IoU", "epochs", "seconds", title=title)
    for row, at_threshold in zip(result.results, result.fold_scores_at_threshold, strict=True):
        scores = (f"{row.score:.4f}", f"{at_threshold:.4f}", f"{row.iou:.4f}")
        table.add_row(str(row.fold), str(row.tiles), *scores, str(row.epochs), f"{row.seconds:.0f}")
    table.add_section()
    tiles = sum(row.tiles for row in result.results)
    table.add_row("all", str(tiles), f"{result.score:.4f}", f"{result.score_at_threshold:.4f}", style="bold")
    console.print(table)
    console.print(f"out-of-fold score {result.score:.4f}; predicting no salt at all would score {result.baseline:.4f}")
    console.print(f"threshold {result.threshold:.2f}, chosen on the same predictions: {result.score_at_threshold:.4f}")
    console.print(f"ensemble  {result.ensemble}")
    console.print(f"report    {result.report}")


def print_pretrain(console: Console, result: "PretrainResult") -> None:
    """The weights, and how to use them."""
    console.print(
        f"pretraining {result.name}: {result.tiles} images, {result.epochs} epochs in {result.seconds:.0f} s; mean "
        f"error of the hidden pixels {result.loss:.4f}"
    )
    console.print(f"weights   {result.weights}")
    console.print(f"use them  saltray train ... --model.weights {result.weights}")


def print_search(console: Console, result: "SearchResult") -> None:
    """The trials from the best to the worst, and how to use what was found."""
    from saltray.config import Range
    from saltray.search.space import end_near

    length = result.spec.config.train.epochs
    for trial in result.trials:
        if trial.reason is not None:
            console.print(f"{trial.name} {trial.status}: {trial.reason}", style="red")
    ranked = sorted(result.trials, key=lambda trial: trial.rank, reverse=True)
    states = [trial.state(length) for trial in ranked]
    title = f"search {result.name}: best validation score"
    console.print(trials_table(states, tuple(result.spec.space_text), title))
    full, run = len(ranked) * length, sum(len(trial.epochs) for trial in ranked)
    console.print(f"{run} epochs were run, {run / full:.0%} of the {full} of all trials to their end")
    console.print(f"best      {result.best.name}: {result.best.state(length).values_text}")
    for field, values in result.spec.settings.space.items():
        value = result.best.values[field]
        if isinstance(values, Range) and isinstance(value, float) and (end := end_near(values, value)):
            console.print(f"{field} {value:g} lies at the {end} end of {values}; a wider range may be better")
    console.print(f"results   {result.uri} ({TRIALS}, {BEST}, {FIGURE}, {TENSORBOARD}/)")
    console.print(f"use it    saltray train ... --from-search {search_folder(result.name)}")


def print_range_test(console: Console, result: "RangeTestResult") -> None:
    """Loss against learning rate, and the suggestion."""
    table = Table("learning rate", "loss", "average", title="range test", title_justify="left")
    for at in range(0, len(result.rates), max(1, len(result.rates) // RANGE_TEST_ROWS)):
        table.add_row(f"{result.rates[at]:.2g}", f"{result.losses[at]:.4f}", f"{result.smooth[at]:.4f}")
    console.print(table)
    if (rate := result.suggestion) is None:
        console.print("the loss fell at no learning rate: no suggestion; try a wider range or more steps")
    else:
        console.print(f"suggested learning rate: {rate:.2g}; to refine it, search around it:")
        console.print(f"  --search.space optim.lr=log:{rate / 10:.1g}:{rate * 10:.1g}")
    console.print(f"results   {result.uri} ({RANGE_TEST_NUMBERS}, {RANGE_TEST_FIGURE})")


def print_summary(console: Console, summary: "DatasetSummary") -> None:
    """A row per count."""
    table = Table(show_header=False, box=None)
    for label, value in _summary_rows(summary):
        table.add_row(label, value)
    console.print(table)
    for note in summary.notes:
        console.print(f"note: {note}")


def _summary_rows(summary: "DatasetSummary") -> Iterator[tuple[str, str]]:
    yield "training tiles", f"{summary.train_tiles:,}"
    yield "test tiles", f"{summary.test_tiles:,}"
    yield "tile size", f"{summary.height}x{summary.width} pixels"
    yield "masks", f"{summary.masks_16bit:,} of 16 bits, {summary.masks_8bit:,} of 8 bits"
    yield "empty masks", f"{summary.empty:,} ({summary.empty / summary.train_tiles:.2%})"
    yield "full masks", f"{summary.full:,}"
    yield "vertical masks", f"{summary.vertical:,} (every column all salt or none)"
    yield "masks of 1-10 pixels", f"{summary.tiny:,}"
    yield "black images", f"{summary.black:,} training, {summary.black_test:,} test"
    yield "identical images", f"{summary.duplicate_images:,} groups"
    yield "identical masks", f"{summary.duplicate_masks:,} groups, empty ones excluded"
    yield "mean coverage", f"{summary.mean_coverage:.4f}"
    median = summary.median_coverage
    yield "median coverage", "no salt" if median is None else f"{median:.4f} of those with salt"
    white = 255 if summary.pixel_range.bits == 8 else summary.pixel_range.maximum
    yield "pixel mean, std", f"{summary.pixel_mean:.4f}, {summary.pixel_std:.4f} (of values / {white})"
    if summary.depth_range is not None:
        yield "depth", f"{summary.depth_range[0]:g} to {summary.depth_range[1]:g}, training"


def print_ensembles(console: Console, versions: Sequence["EnsembleVersion"]) -> None:
    """A row per version, and what cannot be read."""
    ensemble, run = (Column(name, overflow="fold") for name in ("ensemble", "run"))
    table = Table(ensemble, "version", "folds", "score", "at threshold", run)
    for row in versions:
        if row.manifest is None:
            table.add_row(row.name, row.version, "corrupted" if row.fault else "incomplete")
            continue
        manifest = row.manifest
        best = f"{manifest.score_at_threshold:.4f} ({manifest.threshold:.2f})"
        table.add_row(row.name, row.version, str(len(manifest.members)), f"{manifest.score:.4f}", best, manifest.run)
    console.print(table)
    for row in versions:
        if row.fault is not None:
            console.print(f"corrupted: {row.fault}", style="red")
