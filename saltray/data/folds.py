"""The stratified split into folds. It depends on ids, masks, seed and count alone, never on the order of files."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saltray.config import FoldConfig
from saltray.errors import ConfigError

Scheme = Literal["coverage", "blog"]


def assign_folds(ids: Sequence[str], masks: NDArray[np.uint8], folds: FoldConfig) -> NDArray[np.int64]:
    """The fold, 0 to count - 1, of each tile.

    Scheme "coverage": within each stratum (see `strata`) tiles are dealt to the folds in an order made from seed and
    id. Tiles of the same non-empty mask stay together, since one in training would give the others away; empty masks
    tell nothing and are spread.

    Scheme "blog": the 2018 script with its indices used once: ids are shuffled, and in each of ten bins of equal width
    consecutive slices of round(n / count) tiles go to the first folds, the rest to the last.

    Args:
        ids: [N], each once.
        masks: [N, H, W] of 0 and 1, in the same order.
        folds: scheme, seed and count.

    Raises:
        ConfigError: there are not enough tiles for every fold to get one, or the seed does not suit the scheme.
    """
    check_count(folds, len(ids))
    fold_of = _deal(ids, masks, folds) if folds.scheme == "coverage" else _slice(ids, masks, folds)
    tiles = np.bincount(fold_of, minlength=folds.count)
    if not tiles.all():
        raise ConfigError(
            f"folds.count is {folds.count}, but {len(ids)} tiles leave fold {int(np.argmin(tiles))} empty "
            f"by scheme {folds.scheme}; use fewer folds"
        )
    return fold_of


def check_count(folds: FoldConfig, tiles: int) -> None:
    """Raise ConfigError where there are fewer tiles than folds."""
    if folds.count > tiles:
        raise ConfigError(f"folds.count is {folds.count}, but there are only {tiles} tiles; use fewer folds")


def strata(masks: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.int64]:
    """The stratum of each mask of [N, H, W].

    "coverage": 0 for empty masks; 1 to 10 for tenths of the others by rank of coverage, equal coverage alike.
    "blog": 1 to 10 for bins of equal width from the least to the greatest coverage; empty masks share bin 1.
    """
    salt = masks.sum(axis=(1, 2), dtype=np.int64)
    if scheme == "blog":
        coverage = salt / masks[0].size
        _, edges = np.histogram(coverage)
        edges[-1] += 1  # so that the greatest falls into the last bin
        bins: NDArray[np.int64] = np.digitize(coverage, edges)
        return bins
    ranked = np.sort(salt[salt > 0])
    tenth = np.searchsorted(ranked, salt) * 10 // max(len(ranked), 1)
    return np.where(salt > 0, 1 + tenth, 0)


def fold_balance(masks: NDArray[np.uint8], fold_of: NDArray[np.int64], count: int) -> list[dict[str, Any]]:
    """For each fold: fold, tiles, positives (tiles with salt), empty_share of its tiles, coverage (mean salt share)."""
    coverage = masks.mean(axis=(1, 2), dtype=np.float64)
    rows = []
    for fold in range(count):
        inside = coverage[fold_of == fold]
        positives = int((inside > 0).sum())
        rows.append(
            {
                "fold": fold,
                "tiles": len(inside),
                "positives": positives,
                "empty_share": 1 - positives / max(len(inside), 1),
                "coverage": float(inside.sum()) / max(len(inside), 1),
            }
        )
    return rows


def chi2(stratum_of: NDArray[np.int64], fold_of: NDArray[np.int64]) -> float:
    """Pearson's chi-squared of the table of strata by folds: 0 when each fold has its share of each stratum."""
    rows, row_of = np.unique(stratum_of, return_inverse=True)
    columns, column_of = np.unique(fold_of, return_inverse=True)
    observed = np.zeros((len(rows), len(columns)))
    np.add.at(observed, (row_of, column_of), 1)
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / observed.sum()
    return float(((observed - expected) ** 2 / expected).sum())


def _deal(ids: Sequence[str], masks: NDArray[np.uint8], folds: FoldConfig) -> NDArray[np.int64]:
    """Groups of one stratum after another, each to the fold with the fewest tiles of the stratum, then of all."""
    stratum_of = strata(masks, "coverage")
    groups: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for tile, (name, stratum, mask) in enumerate(zip(ids, stratum_of.tolist(), masks, strict=True)):
        key = np.packbits(mask).tobytes() if stratum else name.encode()
        groups[stratum, key].append(tile)

    def turn(stratum: int, members: list[int]) -> tuple[int, int, bytes]:
        # Large groups first, so that single tiles even out what they leave.
        return stratum, -len(members), min(_draw(folds.seed, ids[tile]) for tile in members)

    order = sorted((turn(stratum, members), members) for (stratum, _), members in groups.items())
    in_stratum = np.zeros((11, folds.count), dtype=np.int64)
    total = np.zeros(folds.count, dtype=np.int64)
    fold_of = np.empty(len(ids), dtype=np.int64)
    for (stratum, _, _), members in order:
        fold = min(range(folds.count), key=lambda k: (in_stratum[stratum, k], total[k], k))
        fold_of[members] = fold
        in_stratum[stratum, fold] += len(members)
        total[fold] += len(members)
    return fold_of


def _draw(seed: int, name: str) -> bytes:
    """A random-looking place in line that is the same on every platform."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def _slice(ids: Sequence[str], masks: NDArray[np.uint8], folds: FoldConfig) -> NDArray[np.int64]:
    if folds.seed >= 2**32:
        raise ConfigError(
            f"folds.seed is {folds.seed}; scheme blog shuffles with one below 2**32, so use a smaller one"
        )
    order = np.array(sorted(range(len(ids)), key=lambda tile: ids[tile]))
    np.random.RandomState(folds.seed).shuffle(order)
    stratum_of = strata(masks, "blog")[order]
    fold_of = np.empty(len(ids), dtype=np.int64)
    for stratum in np.unique(stratum_of):
        tiles = order[stratum_of == stratum]
        size = round(len(tiles) / folds.count)
        place = np.arange(len(tiles))
        fold_of[tiles] = np.minimum(place // size, folds.count - 1) if size else folds.count - 1
    return fold_of
