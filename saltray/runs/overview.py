"""All runs of a store side by side, from the store alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from saltray.config import ModelConfig
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import versions_of
from saltray.errors import IntegrityError
from saltray.records import digest
from saltray.report.runs_page import OpenRun, RunLine, RunsReport
from saltray.runs.layout import run_folder
from saltray.runs.records import FoldResult
from saltray.runs.run import fold_result
from saltray.runs.status import RunSummary, published_version, run_summaries
from saltray.storage.base import Store

READERS = 16
"""Runs that are read at once: of a bucket, most of the time is waiting."""


def overview(root: Store) -> RunsReport:
    """What the page of a store shows.

    Raises:
        StorageError: the store cannot be reached.
    """
    with ThreadPoolExecutor(READERS) as pool:
        rows = list(pool.map(_row, repeat(root), run_summaries(root)))
    return RunsReport(
        store=root.uri,
        finished=[row for row in rows if isinstance(row, RunLine)],
        others=[row for row in rows if isinstance(row, OpenRun)],
    )


def network_text(model: ModelConfig) -> str:
    """A network in a few words."""
    return f"{model.title}, {model.num_filters} filters"


def _row(root: Store, summary: RunSummary) -> RunLine | OpenRun:
    try:
        results = list(_results(root, summary))
        manifest = published_version(root, summary.run, results) if results else None
    except IntegrityError as error:
        return _open(summary, str(error))
    if manifest is None:
        versions = versions_of(root, summary.run) if results else []
        return _open(summary, "; ".join([*summary.faults, *(row.fault for row in versions if row.fault is not None)]))
    return _line(summary, manifest, results)


def _results(root: Store, summary: RunSummary) -> Iterator[FoldResult]:
    """Of all folds, where all are finished."""
    if summary.done < summary.count:
        return
    home = root.sub(run_folder(summary.run))
    for fold in range(summary.count):
        if (result := fold_result(home, fold)) is not None:
            yield result


def _open(summary: RunSummary, told: str) -> OpenRun:
    return OpenRun(run=summary.run, state=summary.state, done=summary.done, count=summary.count, told=told)


def _line(summary: RunSummary, manifest: EnsembleManifest, results: list[FoldResult]) -> RunLine:
    config, evaluation = manifest.config, manifest.evaluation
    return RunLine(
        run=summary.run,
        score=None if evaluation is None else evaluation.score,
        interval=None if evaluation is None else evaluation.interval,
        spread=None if evaluation is None else evaluation.spread,
        plain=manifest.score,
        baseline=manifest.baseline,
        recipe=config.recipe,
        network=network_text(config.model),
        lr=config.optim.lr,
        epochs=max(row.epochs for row in results),
        folds=len(results),
        tiles=sum(row.tiles for row in results),
        seconds=sum(row.seconds for row in results),
        finished=max(row.finished for row in results),
        ensemble=manifest.version,
        comparable=digest([manifest.dataset, *vars(config.folds).values()]),
    )
