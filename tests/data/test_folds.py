"""The split is balanced, has no leaks, and depends only on ids, masks, seed and count."""

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saltray.config import FoldConfig
from saltray.data.folds import FoldBalance, Scheme, assign_folds, check_count, fold_balance, strata
from saltray.data.tiles import TileIndex
from saltray.errors import ConfigError
from saltray.records import to_record

Array = NDArray[np.uint8]


def tiles_like_the_real_ones(count: int, seed: int) -> tuple[list[str], Array]:
    """39 % empty, coverage of the others spread with many small, a few groups of identical masks."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 20, 20), np.uint8)
    for mask in masks[: round(0.61 * count)]:
        mask.ravel()[rng.permutation(400)[: 1 + int(399 * rng.beta(0.6, 1))]] = 1
    masks[1:4] = masks[0]
    masks[5] = masks[4]
    masks = masks[rng.permutation(count)]
    return [f"{n:08x}" for n in rng.choice(2**31, count, replace=False)], masks


def index_of(masks: Array) -> TileIndex:
    return TileIndex.of([f"{n}" for n in range(len(masks))], masks)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[str], Array]:
    ids = draw(st.lists(st.text("abc123", min_size=1, max_size=6), min_size=2, max_size=40, unique=True))
    bits = draw(st.lists(st.integers(0, 15), min_size=len(ids), max_size=len(ids)))
    return ids, np.array([[[n >> 3 & 1, n >> 2 & 1], [n >> 1 & 1, n & 1]] for n in bits], np.uint8)


def chi2(stratum_of: NDArray[np.int64], fold_of: NDArray[np.int64]) -> float:
    """Pearson's chi-squared of the table of strata by folds: 0 if each fold has its share of each stratum."""
    rows, row_of = np.unique(stratum_of, return_inverse=True)
    columns, column_of = np.unique(fold_of, return_inverse=True)
    observed = np.zeros((len(rows), len(columns)))
    np.add.at(observed, (row_of, column_of), 1)
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / observed.sum()
    return float(((observed - expected) ** 2 / expected).sum())


def fold_by_id(ids: list[str], masks: Array, folds: FoldConfig) -> dict[str, int]:
    return dict(zip(ids, assign_folds(TileIndex.of(ids, masks), folds).tolist(), strict=True))


@pytest.mark.parametrize("scheme", ["coverage", "blog"])
@settings(deadline=None, max_examples=60)
@given(data=data_sets(), count=st.integers(2, 7), seed=st.integers(0, 2**32 - 1), order=st.randoms())
def test_order_of_files_does_not_matter(
    scheme: str, data: tuple[list[str], Array], count: int, seed: int, order: object
) -> None:
    ids, masks = data
    folds = FoldConfig(count=count, seed=seed, scheme=scheme)  # type: ignore[arg-type]
    shuffled = list(range(len(ids)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    try:
        before = fold_by_id(ids, masks, folds)
    except ConfigError:
        return
    assert fold_by_id([ids[n] for n in shuffled], masks[shuffled], folds) == before
    assert set(before.values()) == set(range(count))


@settings(deadline=None)
@given(data=data_sets(), count=st.integers(2, 7), seed=st.integers(0, 9))
def test_identical_masks_share_a_fold_and_empty_tiles_are_distributed(
    data: tuple[list[str], Array], count: int, seed: int
) -> None:
    ids, masks = data
    distinct = len({mask.tobytes() for mask in masks if mask.any()}) + sum(not mask.any() for mask in masks)
    if distinct < count:
        with pytest.raises(ConfigError, match=r"folds\.count is"):
            assign_folds(TileIndex.of(ids, masks), FoldConfig(count=count, seed=seed))
        return
    fold_of = assign_folds(TileIndex.of(ids, masks), FoldConfig(count=count, seed=seed))
    folds_of: dict[bytes, set[int]] = {}
    for mask, fold in zip(masks, fold_of.tolist(), strict=True):
        folds_of.setdefault(mask.tobytes(), set()).add(fold)
    assert all(len(folds) == 1 for mask, folds in folds_of.items() if any(mask))
    empty = np.bincount(fold_of[~masks.any(axis=(1, 2))], minlength=count)
    assert empty.max() - empty.min() <= 1


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_balance(count: int, seed: int) -> None:
    tiles = TileIndex.of(*tiles_like_the_real_ones(2000, seed))
    fold_of = assign_folds(tiles, FoldConfig(count=count, seed=seed))
    sizes = np.bincount(fold_of, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    for stratum in range(11):
        inside = np.bincount(fold_of[strata(tiles, "coverage") == stratum], minlength=count)
        assert inside.max() - inside.min() <= 4  # 1, but for a group of 4 where the share of a fold is small
    assert chi2(strata(tiles, "coverage"), fold_of) < 1
    shares = [balance.empty_share for balance in fold_balance(tiles.coverage, fold_of, count)]
    assert max(shares) - min(shares) <= 1.5 / sizes.min()


def test_seed_alone_changes_the_split() -> None:
    tiles = TileIndex.of(*tiles_like_the_real_ones(300, 0))
    splits = [assign_folds(tiles, FoldConfig(seed=seed)) for seed in (0, 0, 1)]
    assert (splits[0] == splits[1]).all()
    assert 0.6 < (splits[0] != splits[2]).mean() < 0.95  # by chance four of five tiles move


def test_split_is_the_same_on_every_machine() -> None:
    masks = np.zeros((8, 2, 2), np.uint8)
    masks[4:] = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 0]], [[1, 1], [1, 1]]])
    fold_of = assign_folds(TileIndex.of("abcdefgh", masks), FoldConfig(count=2, seed=6))
    # The empty tiles a to d are assigned in the order of BLAKE2b of "6/a" .. "6/d": c, d, b, a. Each of the others is
    # alone in its stratum, and is assigned to the smaller fold.
    assert fold_of.tolist() == [1, 0, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("scheme", "sha256"),
    [
        ("coverage", "0705482460c89642dfff1286999eb8446cb58e647b85eae551990cb95959e549"),
        ("blog", "282024584f78807838d5f1ce1f56035263e2f7a29f7e82f10fffdceb5ebaac86"),
    ],
)
def test_split_of_a_run_that_was_begun_long_ago(scheme: Scheme, sha256: str) -> None:
    fold_of = assign_folds(TileIndex.of(*tiles_like_the_real_ones(2000, 0)), FoldConfig(scheme=scheme))
    assert hashlib.sha256(fold_of.astype(np.uint8)).hexdigest() == sha256


def literal_blog(ids: list[str], masks: Array, seed: int, count: int) -> dict[str, int]:
    """The blog's script with its indices applied once, step by step."""
    names = sorted(ids)
    mask_of = dict(zip(ids, masks, strict=True))
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    names = [names[n] for n in order]
    coverage = np.array([int(mask_of[name].sum()) / mask_of[name].size for name in names])
    edges = np.histogram(coverage)[1].tolist()
    edges[-1] += 1
    fold_of = {}
    for low, high in pairwise(edges):
        inside = [name for name, value in zip(names, coverage.tolist(), strict=True) if low <= value < high]
        share = round(len(inside) / count)
        for fold in range(count - 1):
            for name in inside[fold * share : (fold + 1) * share]:
                fold_of[name] = fold
        for name in inside[(count - 1) * share :]:
            fold_of[name] = count - 1
    return fold_of


@pytest.mark.parametrize(("size", "seed", "count"), [(400, 0, 5), (403, 1, 5), (97, 7, 4), (60, 2, 2), (61, 3, 3)])
def test_blog_scheme_is_the_blogs(size: int, seed: int, count: int) -> None:
    ids, masks = tiles_like_the_real_ones(size, seed)
    folds = FoldConfig(count=count, seed=seed, scheme="blog")
    assert fold_by_id(ids, masks, folds) == literal_blog(ids, masks, seed, count)


def test_blog_scheme_balances_its_own_strata() -> None:
    tiles = TileIndex.of(*tiles_like_the_real_ones(4000, 0))
    fold_of = assign_folds(tiles, FoldConfig(scheme="blog"))
    assert chi2(strata(tiles, "blog"), fold_of) < 1


def test_strata_by_hand() -> None:
    masks = np.zeros((22, 1, 100), np.uint8)
    for n, salt in enumerate(range(1, 21)):
        masks[n, 0, :salt] = 1
    tiles = index_of(masks)
    # 20 tiles of 1..20 pixels: two per decile. Two empty ones.
    assert strata(tiles, "coverage").tolist() == [1 + n // 2 for n in range(20)] + [0, 0]
    # Edges at 0, 0.02, ... 0.20: a bin begins at its lower edge, and 20 pixels belong to the last.
    widths = strata(tiles, "blog").tolist()
    assert widths[20:] == [1, 1]
    assert (widths[0], widths[2], widths[18], widths[19]) == (1, 2, 10, 10)
    assert Counter(strata(index_of(np.zeros((3, 2, 2), np.uint8)), "coverage").tolist()) == {0: 3}


def test_equal_coverage_is_one_stratum() -> None:
    masks = np.zeros((30, 1, 10), np.uint8)
    for n in range(30):
        masks[n, 0, n % 10] = 1
    assert set(strata(index_of(masks), "coverage").tolist()) == {1}


def test_fold_balance_by_hand() -> None:
    coverage = np.array([1, 0, 0.5, 0, 0])
    balance = fold_balance(coverage, np.array([0, 0, 1, 1, 1]), 3)
    assert balance == (
        FoldBalance(fold=0, tiles=2, positives=1, empty_share=0.5, coverage=0.5),
        FoldBalance(fold=1, tiles=3, positives=1, empty_share=pytest.approx(2 / 3), coverage=pytest.approx(1 / 6)),
        FoldBalance(fold=2, tiles=0, positives=0, empty_share=1, coverage=0),
    )
    assert to_record(balance[0]) == {"fold": 0, "tiles": 2, "positives": 1, "empty_share": 0.5, "coverage": 0.5}


HALVES = np.array([[[n % 2]] for n in range(5)], np.uint8)


@pytest.mark.parametrize(
    ("masks", "folds", "message"),
    [
        (HALVES[:4], FoldConfig(count=5), "folds.count is 5, but there are only 4 tiles; use fewer folds"),
        (HALVES**0, FoldConfig(count=5), "with 5 tiles scheme coverage leaves fold 1 empty; use fewer folds"),
        (HALVES, FoldConfig(count=5, scheme="blog"), "scheme blog leaves fold 3 empty; use fewer folds"),
        (HALVES, FoldConfig(count=2, seed=2**32, scheme="blog"), "folds.seed is 4294967296, but .* below 2**32"),
    ],
)
def test_impossible_splits_are_refused(masks: Array, folds: FoldConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("**", r"\*\*")):
        assign_folds(index_of(masks), folds)


def test_check_count() -> None:
    check_count(FoldConfig(count=5), 5)
    with pytest.raises(ConfigError, match="there are only 4 tiles"):
        check_count(FoldConfig(count=5), 4)
