"""The post-processing that out-of-fold predictions choose, and how optimistic that choice is.

All candidates are scored from counts of pixels: one pass over the predictions, of which none is kept, and sums of
integers after it. The rule for blank tiles is not a candidate: it is taken if there are blank tiles and all of them are
labelled as without salt.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saltray.ensemble.postprocess import Postprocess, blank_tiles
from saltray.training.metrics import TileCounts

THRESHOLDS = tuple(round(0.20 + 0.02 * step, 2) for step in range(31))
"""Candidates of the threshold: 0.20, 0.22, .. 0.80."""
AREAS = (0.0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
"""Candidates of the least area, as shares of a tile: up to 612 of 101x101 pixels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """A post-processing, and the scores by which it was chosen."""

    postprocess: Postprocess
    """That of the best score on all predictions; of several the one of the smallest area, then that nearest to 0.5."""
    score: float
    """Its score on these predictions: optimistic, as it is the best of many on them."""
    curve: tuple[tuple[float, float], ...]
    """Each threshold, and its score with the least area and the rule for blank tiles that were chosen."""
    of_group: dict[int, Postprocess]
    """Group -> the post-processing chosen on all other groups."""
    tenths: NDArray[np.int64]
    """[N], cross-fitted score of each tile in tenths: with the post-processing of its group."""
    plain: NDArray[np.int64]
    """[N], score of each tile in tenths at a probability of 0.5 and nothing more."""


class PostprocessScores:
    """Scores the candidates on out-of-fold predictions, which are added a part at a time and not kept.

    Kept are two bytes for each tile and threshold, and sums over the tiles of each group.

    Args:
        pixels: of a tile.
        thresholds: candidates.
        areas: candidates of the least area, as shares of a tile.
    """

    def __init__(
        self, pixels: int, thresholds: tuple[float, ...] = THRESHOLDS, areas: tuple[float, ...] = AREAS
    ) -> None:
        self._thresholds = thresholds
        self._least = tuple(sorted({round(share * pixels) for share in areas}))
        self._parts: list[_Part] = []
        self._sums: dict[int, _Sums] = {}

    def add(
        self,
        probabilities: NDArray[np.floating],
        masks: NDArray[np.uint8],
        images: NDArray[np.uint8],
        groups: NDArray[np.int64],
    ) -> None:
        """Score some more tiles.

        Args:
            probabilities: [N, H, W], each predicted by a model that did not see the tile.
            masks: [N, H, W] of 0 and 1.
            images: [N, H, W].
            groups: [N], the fold of each tile.
        """
        counts = TileCounts.of(probabilities, masks, (*self._thresholds, 0.5))
        part = _Part(
            groups=groups,
            tenths=counts.tenths.astype(np.uint8),
            areas=np.searchsorted(self._least, counts.predicted[:, :-1], side="right").astype(np.uint8),
            empty=counts.tenths_if_empty.astype(np.uint8),
            blank=blank_tiles(images),
        )
        self._parts.append(part)
        for group in np.unique(groups).tolist():
            sums = part.sums(groups == group, len(self._least))
            self._sums[group] = self._sums[group] + sums if group in self._sums else sums

    def choose(self) -> Choice:
        """The post-processing of the highest competition score, and its cross-fitted scores, of one or more tiles.

        A tile is scored with what was chosen on the tiles of the other groups. If there is but one group, that is a
        threshold of 0.5 and nothing more.
        """
        everything = _total(list(self._sums.values()))
        chosen = self._best(everything)
        of_group = {}
        for group in sorted(self._sums):
            others = [sums for other, sums in self._sums.items() if other != group]
            of_group[group] = self._best(_total(others)) if others else Postprocess()
        plain = np.concatenate([part.plain for part in self._parts])
        tenths = np.concatenate([self._cross_fitted(part, of_group) for part in self._parts])
        at = self._least.index(chosen.min_area)
        curve = everything.with_rule(chosen.blank_is_empty)[:, at] / len(plain) / 10
        return Choice(
            postprocess=chosen,
            score=float(curve[self._thresholds.index(chosen.threshold)]),
            curve=tuple(zip(self._thresholds, curve.tolist(), strict=True)),
            of_group=of_group,
            tenths=tenths,
            plain=plain,
        )

    def _cross_fitted(self, part: "_Part", of_group: dict[int, Postprocess]) -> NDArray[np.int64]:
        """The scores of some tiles with what was chosen for their groups; with one group, those with nothing."""
        tenths = part.plain
        if len(of_group) > 1:
            for group in np.unique(part.groups).tolist():
                inside = part.groups == group
                tenths[inside] = part.of(inside, of_group[group], self._thresholds, self._least)
        return tenths

    def _best(self, sums: "_Sums") -> Postprocess:
        """The best candidate of some tiles."""
        rule = sums.blank_is_empty
        found = sums.with_rule(rule)
        candidates = sorted(  # in the order in which they win a tie
            np.ndindex(found.shape),
            key=lambda at: (self._least[at[1]], round(abs(self._thresholds[at[0]] - 0.5), 6)),
        )
        threshold, area = max(candidates, key=lambda at: found[at])  # the first of the best
        return Postprocess(threshold=self._thresholds[threshold], min_area=self._least[area], blank_is_empty=rule)


class _Part(NamedTuple):
    """Scores of some tiles, in tenths, from which that with any candidate follows."""

    groups: NDArray[np.int64]
    """[N]"""
    tenths: NDArray[np.uint8]
    """[N, thresholds + 1], with no least area; the last at a probability of 0.5."""
    areas: NDArray[np.uint8]
    """[N, thresholds], the number of candidates of the least area that the mask reaches."""
    empty: NDArray[np.uint8]
    """[N], of an empty mask."""
    blank: NDArray[np.bool_]
    """[N], whether the tile shows nothing."""

    @property
    def plain(self) -> NDArray[np.int64]:
        """[N], at a probability of 0.5 and nothing more."""
        return self.tenths[:, -1].astype(np.int64)

    def of(
        self,
        inside: NDArray[np.bool_],
        chosen: Postprocess,
        thresholds: tuple[float, ...],
        least: tuple[int, ...],
    ) -> NDArray[np.uint8]:
        """The scores of the tiles inside with one candidate."""
        threshold = thresholds.index(chosen.threshold)
        emptied = self.areas[:, threshold] <= least.index(chosen.min_area)
        if chosen.blank_is_empty:
            emptied |= self.blank
        return np.where(emptied, self.empty, self.tenths[:, threshold])[inside]

    def sums(self, inside: NDArray[np.bool_], areas: int) -> "_Sums":
        """The sums over the tiles inside, with so many candidates of the least area."""
        tenths, reached = self.tenths[inside, :-1], self.areas[inside]
        empty, blank = self.empty[inside], self.blank[inside]
        plain, ruled = (np.empty((tenths.shape[1], areas), np.int64) for _ in range(2))
        for area in range(areas):
            scores = np.where(reached <= area, empty[:, None], tenths)
            plain[:, area] = scores.sum(axis=0, dtype=np.int64)
            ruled[:, area] = np.where(blank[:, None], empty[:, None], scores).sum(axis=0, dtype=np.int64)
        return _Sums(plain, ruled, int(blank.sum()), int((blank & (empty > 0)).sum()))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of scores in tenths over some tiles, [thresholds, areas], and what the rule for blank tiles needs."""

    plain: NDArray[np.int64]
    ruled: NDArray[np.int64]
    """The same with blank tiles emptied."""
    blank: int
    """Number of blank tiles."""
    blank_without_salt: int

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.plain + other.plain,
            self.ruled + other.ruled,
            self.blank + other.blank,
            self.blank_without_salt + other.blank_without_salt,
        )

    @property
    def blank_is_empty(self) -> bool:
        """Whether there are blank tiles, and none of them has salt."""
        return 0 < self.blank == self.blank_without_salt

    def with_rule(self, blank_is_empty: bool) -> NDArray[np.int64]:
        """The sums where the rule for blank tiles is applied or not."""
        return self.ruled if blank_is_empty else self.plain


def _total(sums: "list[_Sums]") -> "_Sums":
    return reduce(add, sums)
