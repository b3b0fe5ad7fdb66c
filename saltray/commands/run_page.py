"""What the pages of a run show, from its records, its tiles and their out-of-fold predictions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config, Space
from saltray.data.folds import fold_balance
from saltray.data.packed import PackedDataset
from saltray.ensemble.choice import Choice, PostprocessScores
from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import SaltrayError
from saltray.report.examples import pick_examples
from saltray.report.page import FoldRow, RunReport, SearchReport, render_run
from saltray.report.run_charts import coverage_bins
from saltray.report.search_charts import MOST_CURVES, RangeTestCurve, SearchedTrial, best_first
from saltray.report.tile_pictures import TileView, view_tile
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import fold_folder
from saltray.runs.out_of_fold import OutOfFold, PredictedTiles
from saltray.runs.records import FoldResult
from saltray.search.results import RangeTestRecord, read_range_test, read_table
from saltray.search.trials import read_epochs
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.training.evaluation import Evaluation, Reliability
from saltray.training.metrics import TileCounts
from saltray.training.scores import PixelsByProbability


@dataclass(frozen=True, eq=False, kw_only=True)
class FinishedRun:
    """A run all of whose folds are finished."""

    config: Config
    home: Store
    """Its part of the store."""
    tiles: PackedDataset
    fold_of: NDArray[np.int64]
    """[N], the fold of each tile."""
    results: tuple[FoldResult, ...]
    """One per fold, in order."""


class RunScores:
    """The scores of a run's predictions, which pass by a part at a time and are not kept.

    Args:
        predictions: of all folds.
    """

    def __init__(self, predictions: OutOfFold) -> None:
        self._predictions = predictions
        self._scores, self._pixels = PostprocessScores(predictions.pixels), PixelsByProbability()

    def parts(self) -> Iterator[PredictedTiles]:
        """All predictions, each of which is scored before it is yielded.

        Raises:
            IntegrityError: they are not those of the run's tiles, or are damaged.
        """
        for part in self._predictions.parts():
            self._scores.add(part.probabilities, part.tiles.masks, part.tiles.images, part.folds)
            self._pixels.add(part.probabilities, part.tiles.masks)
            yield part

    def results(self) -> tuple[Choice, Reliability]:
        """The post-processing that they choose, and their reliability, after the last part."""
        return self._scores.choose(), self._pixels.reliability()


def overlaps(predictions: OutOfFold, postprocess: Postprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each tile, the pixels of salt in both label and mask, and in either: a pass over all predictions.

    Raises:
        IntegrityError: they are not those of the run's tiles, or are damaged.
    """
    hits, union = [], []
    for part in predictions.parts():
        truth = part.tiles.masks > 0
        predicted = postprocess.apply(part.probabilities, part.tiles.images)
        hits.append((truth & predicted).sum(axis=(1, 2)))
        union.append((truth | predicted).sum(axis=(1, 2)))
    return np.concatenate(hits), np.concatenate(union)


def best_to_worst(
    predictions: OutOfFold, postprocess: Postprocess, hits: NDArray[np.int64], union: NDArray[np.int64]
) -> list[TileView]:
    """The best, median and worst tiles; `hits` and `union` are their `overlaps`."""
    return view_tiles(predictions, postprocess, pick_examples(hits, union))


def view_tiles(predictions: OutOfFold, postprocess: Postprocess, ranks: Mapping[int, str | None]) -> list[TileView]:
    """Some tiles as pictures and numbers.

    Args:
        predictions: of their folds.
        postprocess: how probabilities become masks.
        ranks: position among all tiles -> what it is an example of; in the order in which they are shown.

    Raises:
        IntegrityError: the predictions are not those of these tiles, or are damaged.
    """
    found = predictions.some(list(ranks))
    masks = postprocess.apply(found.probabilities, found.tiles.images)
    tenths = TileCounts.of(masks.astype(np.float32), found.tiles.masks, (0.5,)).tenths[:, 0].tolist()
    row_of = {position: row for row, position in enumerate(found.positions.tolist())}
    return [
        view_tile(
            found.tiles.ids[row],
            int(found.folds[row]),
            tenths[row] / 10,
            image=found.tiles.images[row],
            mask=found.tiles.masks[row],
            probabilities=found.probabilities[row],
            predicted=masks[row],
            rank=ranks[position],
        )
        for position, row in ((position, row_of[position]) for position in ranks)
    ]


def run_page(
    run: FinishedRun,
    manifest: EnsembleManifest,
    ensemble: str,
    *,
    evaluation: Evaluation,
    curve: Sequence[tuple[float, float]],
    examples: Sequence[TileView],
) -> str:
    """The page of a run.

    Args:
        run: what is shown.
        manifest: of its ensemble.
        ensemble: URI of that version.
        evaluation: of the run's predictions.
        curve: each threshold, and the score with it.
        examples: tiles to show.

    Raises:
        IntegrityError: a history is corrupted.
    """
    config, results = run.config, run.results
    cross_fitted = {row.fold: row.score for row in evaluation.folds}
    rows = [
        FoldRow(
            fold=row.fold,
            score=row.score,
            cross_fitted=cross_fitted[row.fold],
            iou=row.iou,
            dice=row.dice,
            epochs=row.epochs,
            seconds=row.seconds,
            started=row.started,
            finished=row.finished,
        )
        for row in results
    ]
    coverage = run.tiles.index.coverage
    return render_run(
        RunReport(
            run=config.run,
            folds=rows,
            balance=fold_balance(coverage, run.fold_of, config.folds.count),
            coverage=coverage_bins(coverage, run.fold_of, config.folds.count),
            history={row.fold: epochs_of(read_history(run.home.sub(fold_folder(row.fold)))) for row in results},
            threshold_curve=curve,
            threshold=manifest.postprocess.threshold,
            postprocess=str(manifest.postprocess),
            baseline=manifest.baseline,
            score=manifest.score,
            score_at_threshold=manifest.score_at_threshold,
            evaluation=evaluation,
            examples=examples,
            search=None if manifest.search_provenance is None else _search(manifest.search_provenance),
            ensemble=ensemble,
            uri=run.home.uri,
            config=config,
            versions=manifest.provenance,
        )
    )


def _search(found: SearchProvenance) -> SearchReport:
    """A search, of which is left out what cannot be read any more: the run does not depend on it."""
    faults: list[str] = []
    space: Space = {}
    trials: list[SearchedTrial] = []
    test: RangeTestRecord | None = None
    with _telling("Its trials cannot be shown", faults):
        space, rows = read_table(open_store(found.uri))
        trials = [SearchedTrial(name=row.trial, status=row.status, values=row.values, score=row.score) for row in rows]
    if trials:
        home = open_store(found.uri)
        with _telling("Its trials cannot be shown by epoch", faults):
            trials = _with_epochs(home, trials)
        with _telling("The range test beside it cannot be shown", faults):
            test = read_range_test(home)
    return SearchReport(
        uri=found.uri,
        trial=found.trial,
        values=found.values,
        score=found.score,
        count=found.trials,
        trials=trials,
        space=space,
        faults=faults,
        range_test=None if test is None else RangeTestCurve(test.rates, test.losses, test.smooth, test.suggestion),
    )


@contextmanager
def _telling(what: str, faults: list[str]) -> Iterator[None]:
    """Add what cannot be read in the block to the faults."""
    try:
        yield
    except SaltrayError as error:
        faults.append(f"{what}: {error}")


def _with_epochs(home: Store, trials: Sequence[SearchedTrial]) -> list[SearchedTrial]:
    """The trials, and of those that are drawn by epoch, their epochs."""
    names = [trial.name for trial in best_first(trials)[:MOST_CURVES]]
    epochs = dict(zip(names, read_epochs(home, names), strict=True))
    return [replace(trial, epochs=epochs.get(trial.name, ())) for trial in trials]
