"""Results as a person reads them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from saltray.config import value_text
from saltray.progress import FoldShare, TrialState, number_text
from saltray.records import UNSET
from saltray.runs.layout import TENSORBOARD
from saltray.search.layout import (
    BEST,
    FIGURE,
    RANGE_TEST_FIGURE,
    RANGE_TEST_NUMBERS,
    TRIALS,
    search_folder,
)

if TYPE_CHECKING:
    from saltray.commands.compare import Comparison
    from saltray.commands.export import Exported
    from saltray.commands.predict import Prediction
    from saltray.commands.pretrain import PretrainResult
    from saltray.commands.publish_run import TrainResult
    from saltray.commands.range_test import RangeTestResult
    from saltray.commands.train import PartialResult
    from saltray.commands.tune import SearchResult
    from saltray.data.summary import DatasetSummary
    from saltray.ensemble.postprocess import Postprocess
    from saltray.ensemble.versions import EnsembleVersion
    from saltray.training.evaluation import Evaluation

TRIAL_STYLES = {"running": "cyan", "finished": "green", "stopped": "dim", "diverged": "red", "failed": "red"}
RANGE_TEST_ROWS = 20
"""Steps that the table of a range test shows, about."""


def split_table(split: Iterable[FoldShare]) -> Table:
    """A row per fold."""
    head = (Column(name, overflow="fold") for name in ("fold", "tiles", "empty", "coverage"))
    table = Table(*head, title="split", title_justify="left")
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
    """Scores of the held-out tiles and what they are worth, the price of choices, the ensemble, the report."""
    honest = result.evaluation
    title = f"run {result.run}: held-out tiles"
    table = Table("fold", "tiles", "score", "at 0.5", "IoU", "epochs", "seconds", title=title, title_justify="left")
    for row, own in zip(result.results, honest.folds, strict=True):
        scores = (f"{own.score:.4f}", f"{row.score:.4f}", f"{row.iou:.4f}")
        table.add_row(str(row.fold), str(row.tiles), *scores, str(row.epochs), f"{row.seconds:.0f}")
    table.add_section()
    tiles = sum(row.tiles for row in result.results)
    table.add_row("all", str(tiles), f"{honest.score:.4f}", f"{result.score:.4f}", style="bold")
    console.print(table)
    console.print(_strata_table(honest))
    console.print(_price_table(honest))
    for line in score_lines(result.evaluation, result.score, result.baseline, result.postprocess):
        console.print(line)
    console.print(f"ensemble  {result.ensemble}")
    console.print(f"report    {result.report}")


def score_lines(honest: "Evaluation", score: float, baseline: float, postprocess: "Postprocess") -> Iterator[str]:
    """What the score is worth, in words: a line each."""
    spread = "" if honest.spread is None else f", standard deviation over folds {honest.spread:.4f}"
    yield f"score     {honest.score:.4f}, 95 % interval {honest.interval}{spread}; no salt at all scores {baseline:.4f}"
    yield (
        "          each fold with the masks' settings chosen on the other folds; chosen on all of them, "
        f"{honest.score + honest.optimism:.4f}; with none, at a probability of 0.5, {score:.4f}"
    )
    yield f"masks     {postprocess}"
    yield f"weights   {honest.weights}"
    reliability = honest.reliability
    yield (
        f"pixels    expected calibration error {reliability.error:.4f}, largest probability {reliability.largest:.2f}"
    )


def _strata_table(honest: "Evaluation") -> Table:
    """A row per stratum."""
    table = Table("label", "tiles", "score", "95 % interval", title="score by coverage", title_justify="left")
    for row in honest.strata:
        table.add_row(row.name, str(row.tiles), f"{row.score:.4f}", str(row.interval))
    return table


def _price_table(honest: "Evaluation") -> Table:
    """A row per way to predict."""
    title = f"price of choices, on {honest.device}" if honest.device else "price of choices"
    table = Table(
        "models",
        "mirror images",
        "score at 0.5",
        "95 % interval of their gain",
        "ms a tile",
        title=title,
        title_justify="left",
    )
    for row in honest.prices:
        unscored = "not on training tiles" if row.models > 1 else "unknown"
        score = unscored if row.score is None else f"{row.score:.4f}"
        time = "unknown" if row.seconds is None else f"{1000 * row.seconds:.3g}"
        gain = "" if row.gain is None else f"{row.gain.low:+.4f} to {row.gain.high:+.4f}"
        table.add_row(str(row.models), "yes" if row.tta else "no", score, gain, time)
    return table


def print_comparison(console: Console, result: "Comparison") -> None:
    """A row per difference: over all tiles, per fold and per stratum."""
    title = f"{result.second} against {result.first}, on held-out tiles"
    head = ("", "tiles", result.first, result.second, "difference", "95 % interval", "better")
    table = Table(*(Column(name, overflow="fold") for name in head), title=title, title_justify="left")
    for rows in ((result.overall, result.plain), result.by_fold, result.by_stratum):
        for row in rows:
            scores = (f"{row.first:.4f}", f"{row.second:.4f}", f"{row.difference:+.4f}")
            interval = f"{row.interval.low:+.4f} to {row.interval.high:+.4f}"
            style = "bold" if row is result.overall else None
            table.add_row(row.name, str(row.tiles), *scores, interval, f"{row.probability:.1%}", style=style)
        table.add_section()
    console.print(table)
    for line in result.left_out:
        console.print(line)
    console.print(f"better: share of resamples in which {result.second} scores higher than {result.first}")
    console.print(f"picture   {result.out}")


def print_prediction(console: Console, done: "Prediction") -> None:
    """What was written, and the score of labelled tiles."""
    console.print(f"wrote {done.out}: {done.tiles} tiles, {done.empty} of them without salt")
    if done.score is not None:
        held = done.score
        console.print(f"score {held.score:.4f}, 95 % interval {held.interval}: no model was trained on these tiles")
    if done.unscored is not None:
        console.print(f"no score: {done.unscored}")


def print_exported(console: Console, done: "Exported") -> None:
    """What is in the file, and how exactly it computes the same."""
    what = "ONNX" if done.format == "onnx" else "torch.export"
    console.print(f"wrote {done.out}: {done.ensemble} as {what}, {done.members} models, {done.bytes / 2**20:.1f} MiB")
    console.print(f"probabilities differ from PyTorch's by at most {done.difference:.1g} on random tiles")


def print_partial(console: Console, result: "PartialResult", rest: str) -> None:
    """Scores of the folds that are finished, and the command that trains the rest."""
    table = Table("fold", "tiles", "score", "IoU", "epochs", "seconds", title=f"run {result.run}: held-out tiles")
    for row in result.results:
        scores = (f"{row.score:.4f}", f"{row.iou:.4f}")
        table.add_row(str(row.fold), str(row.tiles), *scores, str(row.epochs), f"{row.seconds:.0f}")
    console.print(table)
    folds = f"fold{'s' * (len(result.missing) > 1)} {', '.join(map(str, result.missing))}"
    console.print(f"not published: {folds} missing; to finish the run:  {rest}")


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
    ensemble, masks, run = (Column(name, overflow="fold") for name in ("ensemble", "masks", "run"))
    table = Table(ensemble, "version", "folds", "score", "at 0.5", masks, run)
    for row in versions:
        if row.manifest is None:
            table.add_row(row.name, row.version, "corrupted" if row.fault else "incomplete")
            continue
        manifest = row.manifest
        honest = manifest.evaluation
        scores = ("" if honest is None else f"{honest.score:.4f}", f"{manifest.score:.4f}")
        folds = len({member.fold for member in manifest.members})
        snapshots = len({member.snapshot for member in manifest.members})
        count = f"{folds} x {snapshots}" if snapshots > 1 else str(folds)
        table.add_row(row.name, row.version, count, *scores, str(manifest.postprocess), manifest.run)
    console.print(table)
    for row in versions:
        if row.fault is not None:
            console.print(f"corrupted: {row.fault}", style="red")


def print_differences(console: Console, first: str, second: str, differences: Mapping[str, tuple[Any, Any]]) -> None:
    """A row per setting in which two configurations differ."""
    if not differences:
        console.print(f"{first} and {second} have the same settings")
        return
    table = Table(*(Column(name, overflow="fold") for name in ("setting", first, second)))
    for name, values in differences.items():
        table.add_row(name, *(UNSET if value is None else value_text(value) for value in values))
    console.print(table)
