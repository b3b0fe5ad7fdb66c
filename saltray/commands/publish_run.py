"""What follows the last fold of a run: post-processing, scores, the published ensemble and the report."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from saltray.commands.prepare import Prepared
from saltray.commands.run_page import FinishedRun, RunScores, best_to_worst, overlaps, run_page
from saltray.config import Config
from saltray.ensemble.choice import Choice
from saltray.ensemble.layout import version_prefix
from saltray.ensemble.manifest import SearchProvenance
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.progress import Observer, Published
from saltray.runs.evaluation import evaluate
from saltray.runs.layout import OOF, REPORT, fold_folder, run_folder
from saltray.runs.out_of_fold import OutOfFold, open_out_of_fold
from saltray.runs.records import FoldResult
from saltray.runs.tensorboard import held_out_pictures, write_fold_events
from saltray.storage.base import Store
from saltray.training.evaluation import Evaluation, Reliability

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
    run = FinishedRun(
        config=config,
        home=store.sub(run_folder(config.run)),
        tiles=prepared.tiles,
        fold_of=prepared.fold_of,
        results=tuple(results),
    )
    salt = prepared.tiles.salt
    with open_out_of_fold(run.home, results, run.tiles, run.fold_of) as predictions:
        choice, reliability = _score(run.home, predictions)
        evaluation = evaluate(choice, reliability, salt, predictions.pixels, run.fold_of, results, config)
        hits, union = overlaps(predictions, choice.postprocess)
        examples = best_to_worst(predictions, choice.postprocess, hits, union)
        pictures = held_out_pictures(predictions, choice.postprocess, hits, union)
    score = float(choice.plain.mean() / 10)
    baseline = float((salt == 0).mean())
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
        results=run.results,
        score=score,
        postprocess=choice.postprocess,
        score_at_threshold=choice.score,
        evaluation=evaluation,
        baseline=baseline,
        ensemble=f"{store.uri}/{version_prefix(manifest.name, manifest.version)}",
        report=f"{run.home.uri}/{REPORT}",
    )
    observer(Published(result.ensemble))
    page = run_page(run, manifest, result.ensemble, evaluation=evaluation, curve=choice.curve, examples=examples)
    run.home.put(REPORT, page.encode())
    for row in results:
        write_fold_events(run.home, row.fold, pictures[row.fold])
    return result


def _score(home: Store, predictions: OutOfFold) -> tuple[Choice, Reliability]:
    """One pass over all predictions, which are written together and scored on the way."""
    scores = RunScores(predictions)

    def tables() -> Iterator[pa.Table]:
        for part in scores.parts():
            rows = [row.tobytes() for row in part.probabilities]
            yield pa.table({"id": list(part.tiles.ids), "fold": part.folds, "probability": rows}, schema=OOF_SCHEMA)

    home.put_tables(OOF, OOF_SCHEMA, tables())
    return scores.results()
