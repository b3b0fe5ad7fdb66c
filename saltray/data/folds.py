"""The stratified split into folds. It depends only on ids, masks, seed and count, not on the order of files."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saltray.config import FoldConfig
from saltray.data.tiles import TileIndex
from saltray.errors import ConfigError
from saltray.records import Count, Fold, Fraction

Scheme = Literal["coverage", "blog"]


@dataclass(frozen=True)
class FoldBalance:
    """Size and contents of one fold."""

    fold: Fold
    tiles: Count
    positives: Count
    """Tiles with salt."""
    empty_share: Fraction
    """Share of the tiles without salt."""
    coverage: Fraction
    """Mean share of salt over the tiles."""


def assign_folds(tiles: TileIndex, folds: FoldConfig) -> NDArray[np.int64]:
    """The fold, 0 to count - 1, of each tile.

    Scheme "coverage": within each stratum (see `strata`) tiles are assigned to the folds in turn, in an order derived
    from seed and id. Tiles with identical non-empty masks get the same fold, because a copy in the training part would
    leak the held-out masks; empty masks leak nothing and are distributed evenly.

    Scheme "blog": the 2018 script, with its shuffled indices applied once: ids are shuffled, and in each of ten bins of
    equal width consecutive slices of round(n / count) tiles go to the first folds, the rest to the last.

    Args:
        tiles: all of them, in any order.
        folds: scheme, seed and count.

    Raises:
        ConfigError: a fold would have no tiles, or scheme blog cannot use the seed.
    """
    check_count(folds, len(tiles))
    fold_of = _assign_coverage(tiles, folds) if folds.scheme == "coverage" else _assign_blog(tiles, folds)
    sizes = np.bincount(fold_of, minlength=folds.count)
    if not sizes.all():
        raise ConfigError(
            f"folds.count is {folds.count}, but with {len(tiles)} tiles scheme {folds.scheme} leaves fold "
            f"{int(np.argmin(sizes))} empty; use fewer folds"
        )
    return fold_of


def check_count(folds: FoldConfig, tiles: int) -> None:
    """Raise ConfigError if there are fewer tiles than folds."""
    if folds.count > tiles:
        raise ConfigError(f"folds.count is {folds.count}, but there are only {tiles} tiles; use fewer folds")


def strata(tiles: TileIndex, scheme: Scheme) -> NDArray[np.int64]:
    """The stratum of each tile, [N].

    "coverage": 0 for empty masks; 1 to 10 for the deciles of the others by coverage, equal coverage in the same one.
    "blog": 1 to 10 for bins of equal width from the least to the greatest coverage; bin 1 includes empty masks.
    """
    salt = tiles.salt
    if scheme == "blog":
        coverage = tiles.coverage
        _, edges = np.histogram(coverage)
        edges[-1] += 1  # the last bin includes the greatest coverage
        bins: NDArray[np.int64] = np.digitize(coverage, edges)
        return bins
    ranked = np.sort(salt[salt > 0])
    tenth = np.searchsorted(ranked, salt) * 10 // max(len(ranked), 1)
    return np.where(salt > 0, 1 + tenth, 0)


def fold_balance(coverage: NDArray[np.float64], fold_of: NDArray[np.int64], count: int) -> tuple[FoldBalance, ...]:
    """The balance of each fold, from the share of salt of all tiles, [N], and the fold of each, [N]."""
    balance = []
    for fold in range(count):
        inside = coverage[fold_of == fold]
        size = max(len(inside), 1)
        positives = int((inside > 0).sum())
        balance.append(
            FoldBalance(
                fold=fold,
                tiles=len(inside),
                positives=positives,
                empty_share=1 - positives / size,
                coverage=float(inside.sum()) / size,
            )
        )
    return tuple(balance)


def _assign_coverage(tiles: TileIndex, folds: FoldConfig) -> NDArray[np.int64]:
    """Scheme "coverage": stratum by stratum, each group goes to the fold with the fewest tiles of the stratum.

    A group is all tiles of one mask, or a single empty tile. Ties go to the fold with the fewest tiles of all strata.
    """
    stratum, same = strata(tiles, "coverage"), tiles.same_mask
    keys = np.fromiter((_order_key(folds.seed, name) for name in tiles.ids), dtype="S16", count=len(tiles))
    high, low = keys.view(">u8").reshape(-1, 2).T
    tile = np.lexsort((low, high, same, stratum))  # group by group, the tile of the least key first
    begins = np.append(True, (np.diff(same[tile]) != 0) | (np.diff(stratum[tile]) != 0))
    start = np.append(np.flatnonzero(begins), len(tiles))
    size, head = np.diff(start), tile[start[:-1]]
    # Large groups first, so that single tiles even out the differences they leave.
    order = np.lexsort((low[head], high[head], -size, stratum[head]))
    in_stratum = np.zeros((11, folds.count), dtype=np.int64)
    total = np.zeros(folds.count, dtype=np.int64)
    fold_of = np.empty(len(tiles), dtype=np.int64)
    for group in order:
        here = in_stratum[stratum[head[group]]]
        fold = min(range(folds.count), key=lambda k: (here[k], total[k], k))
        fold_of[tile[start[group] : start[group + 1]]] = fold
        here[fold] += size[group]
        total[fold] += size[group]
    return fold_of


def _order_key(seed: int, name: str) -> bytes:
    """A pseudorandom sort key that is the same on every platform."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def _assign_blog(tiles: TileIndex, folds: FoldConfig) -> NDArray[np.int64]:
    """Scheme "blog"."""
    if folds.seed >= 2**32:
        raise ConfigError(f"folds.seed is {folds.seed}, but scheme blog needs a seed below 2**32; use a smaller one")
    order = np.array(sorted(range(len(tiles)), key=tiles.ids.__getitem__))
    np.random.RandomState(folds.seed).shuffle(order)
    stratum_of = strata(tiles, "blog")[order]
    fold_of = np.empty(len(tiles), dtype=np.int64)
    for stratum in np.unique(stratum_of):
        inside = order[stratum_of == stratum]
        size = round(len(inside) / folds.count)
        position = np.arange(len(inside))
        fold_of[inside] = np.minimum(position // size, folds.count - 1) if size else folds.count - 1
    return fold_of
