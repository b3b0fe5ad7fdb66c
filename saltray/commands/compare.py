"""`saltray compare`: two runs on the same tiles and folds, by paired bootstrap, in numbers and a picture."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.commands.root import open_root
from saltray.data.packed import PackedDataset
from saltray.data.packing import packed_tiles
from saltray.distributed.paths import check_kept
from saltray.ensemble.choice import Choice, PostprocessScores
from saltray.errors import ConfigError
from saltray.records import digest
from saltray.report.comparison import draw_comparison
from saltray.runs.layout import RUNS, SPLIT
from saltray.runs.manifests import manifest_of
from saltray.runs.out_of_fold import open_out_of_fold
from saltray.runs.records import FoldResult, RunManifest, Split
from saltray.runs.run import find_run, fold_result
from saltray.storage.base import Store
from saltray.storage.outputs import full_name, output_file
from saltray.training.scores import PairedDifference, paired_difference, strata_of


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second run against the first, on the held-out tiles of the folds that both have finished."""

    first: str
    second: str
    folds: tuple[int, ...]
    """Those that count."""
    left_out: tuple[str, ...]
    """The other folds, and which run has not finished them, a line each."""
    overall: PairedDifference
    """Of all tiles, cross-fitted: masks by settings that each run chose on its other folds, or, where only one fold
    counts, on the other half of its tiles."""
    plain: PairedDifference
    """Of all tiles, at a probability of 0.5."""
    by_fold: tuple[PairedDifference, ...]
    """Cross-fitted, as the next."""
    by_stratum: tuple[PairedDifference, ...]
    out: str
    """Path or URI of the picture, as given."""


@dataclass(frozen=True)
class _Run:
    """A run to compare."""

    label: str
    root: Store
    home: Store
    manifest: RunManifest
    fold_of: dict[str, int]
    results: dict[int, FoldResult]
    """Of the folds that are finished."""


def compare(
    first: str, second: str, *, store: str = "saltray-store", out: str | os.PathLike[str] = "compare.png"
) -> Comparison:
    """Compare the scores of two runs tile by tile, as far as both have finished the same folds.

    Args:
        first: name of a run of `store`, or the URI STORE/runs/NAME of any.
        second: the run that may be better, in the same way.
        store: a folder or s3://bucket/prefix.
        out: the PNG to draw, a path or s3://bucket/key.

    Raises:
        ConfigError: the runs have other tiles or another split, or have no finished fold in common.
        NotFoundError: there is no such run, or its tiles are no longer in the store.
        IntegrityError: something of a run is corrupted.
        StorageError: a store cannot be reached, or the picture cannot be written.
    """
    check_kept("--out", os.fspath(out))
    runs = _open(first, store), _open(second, store)
    common = _check_comparable(*runs)
    for run in runs:
        if f"{full_name(out)}/".startswith(f"{full_name(run.home.uri)}/"):
            raise ConfigError(f"--out {out} is in the run's own folder; choose another place for it")
    with output_file(out) as picture:
        tiles = _tiles(runs[0], runs[1])
        fold_of = np.array([runs[0].fold_of[tile] for tile in tiles.ids])
        result = _compare(runs, tiles, fold_of, common, os.fspath(out))
        drawn = draw_comparison(
            result.first,
            result.second,
            {
                "all tiles": (result.overall, result.plain),
                "by fold": result.by_fold,
                "by coverage": result.by_stratum,
            },
        )
        with picture.writing() as path:
            path.write_bytes(drawn)
    return result


def _open(name: str, store: str) -> _Run:
    """A run by its name in a store, or by its URI."""
    where, _, run = name.rstrip("/").rpartition(f"/{RUNS}/")
    if "/" in name and not where:
        raise ConfigError(f"{name!r} is neither a run's name nor its URI; write NAME, or STORE/{RUNS}/NAME")
    root = open_root(where or store)
    home = find_run(root, run)
    manifest = manifest_of(home, RunManifest)
    finished = ((fold, fold_result(home, fold)) for fold in range(manifest.config.folds.count))
    results = {fold: result for fold, result in finished if result is not None}
    return _Run(name, root, home, manifest, home.get_record(SPLIT, Split).fold_of, results)


def _check_comparable(first: _Run, second: _Run) -> list[int]:
    """The folds that both have finished, which are folds of the same tiles."""
    if full_name(first.home.uri) == full_name(second.home.uri):
        raise ConfigError(f"{first.label} and {second.label} are the same run; name two")
    pair = f"{first.label} and {second.label}"
    if first.manifest.dataset != second.manifest.dataset:
        raise ConfigError(
            f"{pair} have other tiles ({first.manifest.dataset[:12]} and {second.manifest.dataset[:12]}), so their "
            "scores cannot be compared; train one of them on the tiles of the other, under a new name"
        )
    if digest(first.fold_of) != digest(second.fold_of):
        one, other = (vars(run.manifest.config.folds) for run in (first, second))
        settings = ", ".join(f"folds.{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name])
        raise ConfigError(
            f"{pair} have different splits ({settings or 'by another version'}): a tile that one run held out, the "
            "other may have trained on; train one of them with the split of the other, under a new name"
        )
    if common := sorted(first.results.keys() & second.results.keys()):
        return common
    done = "; ".join(f"{run.label}: {', '.join(map(str, sorted(run.results))) or 'none'}" for run in (first, second))
    raise ConfigError(f"{pair} have no finished fold in common ({done}); finish one in both")


def _tiles(first: _Run, second: _Run) -> PackedDataset:
    """The tiles of both, from the store that has them."""
    config = second.manifest.config
    found = packed_tiles(first.manifest.dataset, first.manifest.config.data, first.root)
    found = found or packed_tiles(second.manifest.dataset, config.data, second.root)
    if found is None:
        raise ConfigError(
            f"the tiles of {first.label} and {second.label} are no longer packed in {first.root.uri}; "
            f"`saltray train` with their data ({config.data}) packs them again"
        )
    if found.ids != tuple(sorted(first.fold_of)):
        raise ConfigError(f"the split of {first.label} is of other tiles than its data set; train it again")
    return found


def _choose(
    run: _Run, tiles: PackedDataset, fold_of: NDArray[np.int64], groups: NDArray[np.int64], common: list[int]
) -> Choice:
    """The post-processing of a run on the tiles of the common folds, of which [N] are the groups."""
    results = [run.results[fold] for fold in common]
    with open_out_of_fold(run.home, results, tiles, fold_of) as predictions:
        scores = PostprocessScores(predictions.pixels)
        for part in predictions.parts():
            scores.add(part.probabilities, part.tiles.masks, part.tiles.images, groups[part.positions])
        return scores.choose()


def _compare(
    runs: tuple[_Run, _Run], tiles: PackedDataset, fold_of: NDArray[np.int64], common: list[int], out: str
) -> Comparison:
    """All differences, on tiles of the common folds alone."""
    counted = np.isin(fold_of, common)
    groups = fold_of if len(common) > 1 else (np.cumsum(counted) - 1) % 2
    one, two = (_choose(run, tiles, fold_of, groups, common) for run in runs)
    fold_of, salt = fold_of[counted], tiles.salt[counted]
    numbers = sorted(set(range(runs[0].manifest.config.folds.count)) - set(common))
    strata = strata_of(salt, tiles.index.area)
    lacking = {fold: [run.label for run in runs if fold not in run.results] for fold in numbers}
    return Comparison(
        first=runs[0].label,
        second=runs[1].label,
        folds=tuple(common),
        left_out=tuple(f"fold {fold} is left out: not finished in {' and '.join(lacking[fold])}" for fold in numbers),
        overall=paired_difference("cross-fitted", one.tenths, two.tenths),
        plain=paired_difference("at 0.5", one.plain, two.plain),
        by_fold=tuple(
            paired_difference(f"fold {fold}", one.tenths[fold_of == fold], two.tenths[fold_of == fold])
            for fold in common
        ),
        by_stratum=tuple(paired_difference(name, one.tenths[inside], two.tenths[inside]) for name, inside in strata),
        out=out,
    )
