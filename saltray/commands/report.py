"""`saltray report`: the page of a run again, of some of its tiles, or of all runs of a store, from the store alone."""

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saltray.commands.run_page import FinishedRun, RunScores, best_to_worst, overlaps, run_page, view_tiles
from saltray.config import Config
from saltray.data.packing import packed_tiles
from saltray.distributed.paths import check_kept
from saltray.ensemble.layout import is_ensemble_uri, store_of_uri, version_prefix
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.report.runs_page import render_runs
from saltray.report.tiles_page import TilesReport, render_tiles
from saltray.runs.evaluation import evaluate
from saltray.runs.layout import MANIFEST, REPORT, RUNS, SPLIT
from saltray.runs.manifests import manifest_of
from saltray.runs.out_of_fold import open_out_of_fold
from saltray.runs.overview import overview
from saltray.runs.records import FoldResult, RunManifest, Split
from saltray.runs.run import find_run, fold_result
from saltray.runs.status import published_version
from saltray.storage.base import Store
from saltray.storage.lock import owner_of
from saltray.storage.outputs import full_name, output_file
from saltray.storage.uri import open_store
from saltray.wording import plain, suggestion

MOST_TILES = 100
"""Tiles of a page: about 1 MB of the competition's."""
NEIGHBOURS = 50
"""Ids before and after an unknown one among which the one that was meant is looked for: there may be a million."""

_RUN = re.compile(rf"(?:(.*)/)?{RUNS}/([^/]+)")


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A page that was written."""

    out: str
    """Path or URI, as given."""
    shows: str
    """What, in words."""


@dataclass(frozen=True, kw_only=True)
class _Published:
    """A finished run, as its records have it, and its published version."""

    root: Store
    home: Store
    record: RunManifest
    results: tuple[FoldResult, ...]
    manifest: EnsembleManifest


def write_report(uri: str, out: str | os.PathLike[str] | None = None, *, tiles: Sequence[str] = ()) -> WrittenReport:
    """Write a self-contained HTML page: of a finished run, of some of its held-out tiles, or of all runs of a store.

    Args:
        uri: STORE/runs/NAME, STORE/ensembles/NAME or one of its versions; or STORE, a folder or s3://bucket/prefix.
        out: the file to write, a path or s3://bucket/key; run-NAME.html, run-NAME-tiles.html or runs.html unless given.
        tiles: ids of the tiles to show instead of the run.

    Raises:
        ConfigError: the run is not finished, was made by another version of saltray, or has no such tile; or the URI
            names none of these.
        NotFoundError: there is no such run.
        EnsembleError: there is no such ensemble.
        IntegrityError: something of the run is corrupted.
        StorageError: the store cannot be reached, or the page cannot be written.
    """
    root = open_store(uri)
    if root.folders(RUNS):
        if tiles:
            raise ConfigError(f"tiles are of one run, and {uri} is a whole store; name STORE/{RUNS}/NAME")
        return _write_runs(root, "runs.html" if out is None else out)
    run = _find(uri)
    name = run.record.run
    where = os.fspath(out if out is not None else f"run-{name}{'-tiles' if tiles else ''}.html")
    _check_out(where, run.home)
    data = _finished(run)
    if not tiles:
        with output_file(where) as draft:
            page = _run_page(data, run)
            with draft.writing() as path:
                path.write_text(page, encoding="utf-8")
        return WrittenReport(out=where, shows=f"run {name}")
    chosen = _positions(data, tiles)
    with output_file(where) as draft:
        page = _tiles_page(data, run, chosen)
        with draft.writing() as path:
            path.write_text(page, encoding="utf-8")
    return WrittenReport(out=where, shows=f"{len(chosen)} tile{'s' * (len(chosen) > 1)} of run {name}")


def _write_runs(root: Store, out: str | os.PathLike[str]) -> WrittenReport:
    where = os.fspath(out)
    check_kept("--out", where)
    with output_file(where) as draft:
        found = overview(root)
        with draft.writing() as path:
            path.write_text(render_runs(found), encoding="utf-8")
    return WrittenReport(
        out=where, shows=f"{len(found.finished)} finished and {len(found.others)} other runs of {root.uri}"
    )


def _check_out(out: str, home: Store) -> None:
    """Refuse an output in the run's own folder, but for the run's page."""
    check_kept("--out", out)
    own, name = full_name(home.uri), full_name(out)
    if name.startswith(f"{own}/") and name != f"{own}/{REPORT}":
        raise ConfigError(f"--out {out} is in the run's own folder; choose another place for it")


def _find(uri: str) -> _Published:
    """A run that is finished and published, by its own URI or that of an ensemble."""
    uri = uri.rstrip("/")
    if match := _RUN.fullmatch(uri):
        return _open(open_store(match[1] or ("/" if uri.startswith("/") else ".")), match[2])
    if is_ensemble_uri(uri):
        manifest = read_manifest(resolve(uri))
        store = store_of_uri(uri)
        assert store is not None
        return _open(open_store(store), manifest.run, manifest)
    usual = f"{Config.store}/{RUNS}/{uri}"
    if "/" not in uri and open_store(Config.store).exists(f"{RUNS}/{uri}/{MANIFEST}"):
        raise NotFoundError(f"there is no run in {uri}; did you mean {usual}?")
    raise NotFoundError(f"there is no run in {uri}; name STORE/{RUNS}/NAME, STORE/ensembles/NAME or a STORE with runs")


def _open(root: Store, run: str, asked: EnsembleManifest | None = None) -> _Published:
    """A run by its name; `asked` is the version of the ensemble whose run it is."""
    home = find_run(root, run)
    record = manifest_of(home, RunManifest)
    count = record.config.folds.count
    results = [result for fold in range(count) if (result := fold_result(home, fold)) is not None]
    if len(results) < count:
        owner = owner_of(home)
        remedy = (
            f"it is being trained by {owner}"
            if owner is not None and owner.is_alive()
            else "`saltray train` with the same settings finishes it"
        )
        raise ConfigError(
            f"run {run} of {root.uri} has finished {len(results)} of {count} folds, and has no page yet; {remedy}, "
            "and `saltray status` shows how far it is"
        )
    published = published_version(root, run, results)
    if published is None:
        raise ConfigError(
            f"run {run} of {root.uri} is trained, but its ensemble is not published; `saltray train` with the same "
            "settings publishes it"
        )
    if asked is not None and [member.sha256 for member in asked.members] != [
        member.sha256 for member in published.members
    ]:
        raise ConfigError(
            f"version {asked.version} has models that run {run} no longer has, as it was trained longer; name "
            f"{root.uri}/{version_prefix(published.name, published.version)}, the version of its present ones"
        )
    return _Published(root=root, home=home, record=record, results=tuple(results), manifest=asked or published)


def _finished(run: _Published) -> FinishedRun:
    """The tiles of the run beside its records.

    Raises:
        ConfigError: they are no longer in the store.
        IntegrityError: the split is of other tiles.
    """
    config = run.record.config
    tiles = packed_tiles(run.record.dataset, config.data, run.root)
    if tiles is None:
        raise ConfigError(
            f"the tiles of run {run.record.run} are no longer packed in {run.root.uri}; `saltray train` with their "
            f"data ({config.data}) packs them again"
        )
    fold_of = run.home.get_record(SPLIT, Split).fold_of
    if tiles.ids != tuple(sorted(fold_of)):
        raise IntegrityError(f"{run.home.uri}/{SPLIT} is of other tiles than the run's data set; restore it")
    return FinishedRun(
        config=config,
        home=run.home,
        tiles=tiles,
        fold_of=np.array([fold_of[tile] for tile in tiles.ids]),
        results=run.results,
    )


def _run_page(data: FinishedRun, run: _Published) -> str:
    manifest = run.manifest
    with open_out_of_fold(data.home, data.results, data.tiles, data.fold_of) as predictions:
        scores = RunScores(predictions)
        for _ in scores.parts():
            pass
        choice, reliability = scores.results()
        evaluation = manifest.evaluation or evaluate(
            choice, reliability, data.tiles.salt, predictions.pixels, data.fold_of, data.results, data.config
        )
        examples = best_to_worst(predictions, manifest.postprocess, *overlaps(predictions, manifest.postprocess))
    return run_page(data, manifest, _uri(run), evaluation=evaluation, curve=choice.curve, examples=examples)


def _positions(data: FinishedRun, tiles: Sequence[str]) -> list[int]:
    """Where some tiles are, by their ids, each once.

    Raises:
        ConfigError: there is no such tile, or there are too many.
    """
    wanted = list(dict.fromkeys(tiles))
    if len(wanted) > MOST_TILES:
        raise ConfigError(f"{len(wanted)} tiles are too many for a page; name {MOST_TILES} or fewer")
    ids = data.tiles.ids
    found = []
    for tile in wanted:
        place = bisect_left(ids, tile)
        if place == len(ids) or ids[place] != tile:
            near = suggestion(tile, ids[max(0, place - NEIGHBOURS) : place + NEIGHBOURS])
            remedy = f"did you mean {plain(near)}?" if near else f"its ids are like {plain(ids[0])}"
            raise ConfigError(f"run {data.config.run} has no tile {plain(tile)}; {remedy}")
        found.append(place)
    return found


def _tiles_page(data: FinishedRun, run: _Published, chosen: Sequence[int]) -> str:
    """Only the predictions of the folds that held these tiles out are read, and only their shards."""
    folds = set(data.fold_of[list(chosen)].tolist())
    results = [result for result in data.results if result.fold in folds]
    with open_out_of_fold(data.home, results, data.tiles, data.fold_of) as predictions:
        views = view_tiles(predictions, run.manifest.postprocess, dict.fromkeys(chosen))
    return render_tiles(
        TilesReport(run=data.config.run, ensemble=_uri(run), postprocess=str(run.manifest.postprocess), tiles=views)
    )


def _uri(run: _Published) -> str:
    """Of the published version."""
    return f"{run.root.uri}/{version_prefix(run.manifest.name, run.manifest.version)}"
