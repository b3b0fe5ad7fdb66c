"""What follows the last fold of a run: post-processing, scores, the published ensemble and the report."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.commands.prepare import Prepared
from saltray.config import Config
from saltray.data.folds import fold_balance
from saltray.ensemble.choice import Choice, choose_postprocess
from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import SearchProvenance, provenance
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.progress import Observer, Published
from saltray.report.examples import draw_examples
from saltray.report.page import FoldRow, RunReport, render_run
from saltray.runs.evaluation import evaluate
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import OOF, REPORT, fold_folder, run_folder
from saltray.runs.records import FoldResult
from saltray.runs.run import out_of_fold
from saltray.storage.base import Store
from saltray.training.evaluation import Evaluation


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
    probabilities = out_of_fold(home, results, tiles)
    rows = [row.tobytes() for row in probabilities]
    home.put_table(OOF, pa.table({"id": list(tiles.ids), "fold": fold_of, "probability": rows}))
    choice = choose_postprocess(probabilities, tiles, fold_of)
    evaluation = evaluate(choice, probabilities, tiles, fold_of, results, config)
    score = float(choice.plain.mean() / 10)
    baseline = float((~tiles.masks.any(axis=(1, 2))).mean())
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
    home.put(REPORT, _report(config, home, prepared, probabilities, result, choice).encode())
    return result


def _report(
    config: Config,
    home: Store,
    prepared: Prepared,
    probabilities: NDArray[np.float16],
    result: TrainResult,
    choice: Choice,
) -> str:
    tiles = prepared.tiles
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
        balance=fold_balance(tiles.coverage, prepared.fold_of, config.folds.count),
        history={row.fold: epochs_of(read_history(home.sub(fold_folder(row.fold)))) for row in rows},
        threshold_curve=choice.curve,
        threshold=result.threshold,
        postprocess=str(result.postprocess),
        baseline=result.baseline,
        score=result.score,
        score_at_threshold=result.score_at_threshold,
        evaluation=result.evaluation,
        examples=draw_examples(
            tiles, result.postprocess.apply(probabilities, tiles.images), prepared.fold_of, str(result.postprocess)
        ),
        ensemble=result.ensemble,
        config=config,
        versions=provenance(),
    )
    return render_run(report)
