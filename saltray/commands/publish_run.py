"""What follows the last fold of a run: post-processing, scores, the published ensemble and the report."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.commands.prepare import Prepared
from saltray.config import Config
from saltray.data.folds import fold_balance
from saltray.ensemble.choice import Choice, PostprocessScores
from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import SearchProvenance, provenance
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.progress import Observer, Published
from saltray.report.examples import draw_examples, pick_examples
from saltray.report.page import FoldRow, RunReport, render_run
from saltray.runs.evaluation import evaluate
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import OOF, REPORT, fold_folder, run_folder
from saltray.runs.out_of_fold import OutOfFold, open_out_of_fold
from saltray.runs.records import FoldResult
from saltray.runs.tensorboard import held_out_pictures, write_fold_events
from saltray.storage.base import Store
from saltray.training.evaluation import Evaluation, Reliability
from saltray.training.scores import PixelsByProbability

OOF_SCHEMA = pa.schema([("id", pa.string()), ("fold", pa.int64()), ("probability", pa.binary())])
"""The out-of-fold predictions of all tiles, in the order of the data set."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gave."""

    run: str
    results: tuple[FoldResult, ...]
    """One per fold, in order."""
    score: float
    """Out-of-fold competition score at a probability of 0.5, over all tiles."""
    postprocess: Postprocess
    """How probabilities become masks; chosen on the out-of-fold predictions."""
    score_at_threshold: float
    """The same with `postprocess`; optimistic, as that was chosen on the same predictions."""
    evaluation: Evaluation
    """The cross-fitted score, which is the headline, its interval and its parts, reliability and prices."""
    baseline: float
    """Score of predicting no salt at all on the same tiles."""
    ensemble: str
    """URI of the published version."""
    report: str
    """URI of the run's HTML page."""

    @property
    def threshold(self) -> float:
        """Probability above which a pixel is salt."""
        return self.postprocess.threshold


def publish_run(
    config: Config,
    store: Store,
    prepared: Prepared,
    results: list[FoldResult],
    found: SearchProvenance | None,
    observer: Observer,
) -> TrainResult:
    """Choose the post-processing on the out-of-fold predictions, score it, publish the ensemble, write the report.

    Raises:
        IntegrityError: the predictions of a fold are not those of these tiles.
        StorageError: the store cannot be read or written.
    """
    home, tiles, fold_of = store.sub(run_folder(config.run)), prepared.tiles, prepared.fold_of
    with open_out_of_fold(home, results, tiles, fold_of) as predictions:
        choice, reliability = _score(home, predictions)
        evaluation = evaluate(choice, reliability, tiles.salt, predictions.pixels, fold_of, results, config)
        hits, union = _overlaps(predictions, choice.postprocess)
        examples = _examples(predictions, choice.postprocess, hits, union)
        pictures = held_out_pictures(predictions, choice.postprocess, hits, union)
    score = float(choice.plain.mean() / 10)
    baseline = float((tiles.salt == 0).mean())
    manifest = publish(
        store,
        config=config,
        models=[
            FoldModel(
                fold=result.fold,
                snapshot=model.cycle,
                key=f"{run_folder(config.run)}/{fold_folder(result.fold)}/{model.key}",
                sha256=model.sha256,
                score=model.score,
            )
            for result in results
            for model in result.models
        ],
        postprocess=choice.postprocess,
        score=score,
        score_at_threshold=choice.score,
        baseline=baseline,
        evaluation=evaluation,
        dataset=prepared.dataset,
        search_provenance=found,
        weights_provenance=prepared.weights_provenance,
        pseudo_labels=prepared.pseudo_provenance,
    )
    result = TrainResult(
        run=config.run,
        results=tuple(results),
        score=score,
        postprocess=choice.postprocess,
        score_at_threshold=choice.score,
        evaluation=evaluation,
        baseline=baseline,
        ensemble=f"{store.uri}/{version_prefix(manifest.name, manifest.version)}",
        report=f"{home.uri}/{REPORT}",
    )
    observer(Published(result.ensemble))
    home.put(REPORT, _report(config, home, prepared, examples, result, choice).encode())
    for row in results:
        write_fold_events(home, row.fold, pictures[row.fold])
    return result


def _score(home: Store, predictions: OutOfFold) -> tuple[Choice, Reliability]:
    """One pass over all predictions, which are written together and scored on the way."""
    scores, pixels = PostprocessScores(predictions.pixels), PixelsByProbability()

    def tables() -> Iterator[pa.Table]:
        for part in predictions.parts():
            scores.add(part.probabilities, part.tiles.masks, part.tiles.images, part.folds)
            pixels.add(part.probabilities, part.tiles.masks)
            rows = [row.tobytes() for row in part.probabilities]
            yield pa.table({"id": list(part.tiles.ids), "fold": part.folds, "probability": rows}, schema=OOF_SCHEMA)

    home.put_tables(OOF, OOF_SCHEMA, tables())
    return scores.choose(), pixels.reliability()


def _overlaps(predictions: OutOfFold, postprocess: Postprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each tile, the pixels of salt in both label and mask, and in either."""
    hits, union = [], []
    for part in predictions.parts():
        truth = part.tiles.masks > 0
        predicted = postprocess.apply(part.probabilities, part.tiles.images)
        hits.append((truth & predicted).sum(axis=(1, 2)))
        union.append((truth | predicted).sum(axis=(1, 2)))
    return np.concatenate(hits), np.concatenate(union)


def _examples(
    predictions: OutOfFold, postprocess: Postprocess, hits: NDArray[np.int64], union: NDArray[np.int64]
) -> bytes:
    """The picture of the best, median and worst tiles."""
    examples = pick_examples(hits, union)
    shown = predictions.some([example.tile for example in examples])
    masks = postprocess.apply(shown.probabilities, shown.tiles.images)
    return draw_examples(examples, shown.tiles, masks, shown.folds.tolist(), str(postprocess))


def _report(
    config: Config,
    home: Store,
    prepared: Prepared,
    examples: bytes,
    result: TrainResult,
    choice: Choice,
) -> str:
    rows = [
        FoldRow(
            fold=row.fold,
            score=row.score,
            cross_fitted=cross_fitted.score,
            iou=row.iou,
            dice=row.dice,
            epochs=row.epochs,
            seconds=row.seconds,
        )
        for row, cross_fitted in zip(result.results, result.evaluation.folds, strict=True)
    ]
    report = RunReport(
        run=config.run,
        folds=rows,
        balance=fold_balance(prepared.tiles.index.coverage, prepared.fold_of, config.folds.count),
        history={row.fold: epochs_of(read_history(home.sub(fold_folder(row.fold)))) for row in rows},
        threshold_curve=choice.curve,
        threshold=result.threshold,
        postprocess=str(result.postprocess),
        baseline=result.baseline,
        score=result.score,
        score_at_threshold=result.score_at_threshold,
        evaluation=result.evaluation,
        examples=examples,
        ensemble=result.ensemble,
        config=config,
        versions=provenance(),
    )
    return render_run(report)
