"""The post-processing that out-of-fold predictions choose, and how optimistic that choice is.

All candidates are scored from counts of pixels: one pass over the predictions, and sums of integers after it. The rule
for blank tiles is not a candidate: it is taken if there are blank tiles and all of them are labelled as without salt.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.tiles import LabelledTiles
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


def choose_postprocess(
    probabilities: NDArray[np.floating],
    tiles: LabelledTiles,
    groups: NDArray[np.int64],
    thresholds: tuple[float, ...] = THRESHOLDS,
    areas: tuple[float, ...] = AREAS,
) -> Choice:
    """The post-processing of the highest competition score on out-of-fold predictions, and its cross-fitted scores.

    Args:
        probabilities: [N, H, W], each predicted by a model that did not see the tile.
        tiles: the tiles of these predictions.
        groups: [N], the fold of each tile; a tile is scored with what was chosen on the tiles of the other groups. If
            there is but one group, that is a threshold of 0.5 and nothing more.
        thresholds: candidates.
        areas: candidates of the least area, as shares of a tile.
    """
    counts = TileCounts.of(probabilities, tiles.masks, (*thresholds, 0.5))
    by_threshold, empty = counts.tenths, counts.tenths_if_empty.astype(np.int8)
    pixels = tiles.height * tiles.width
    least = np.array(sorted({round(share * pixels) for share in areas}))
    small = counts.predicted[:, :-1, None] < least
    scores = np.where(small, empty[:, None, None], by_threshold[:, :-1, None].astype(np.int8))
    table = _Table(scores, empty, blank_tiles(tiles.images), thresholds, tuple(least.tolist()))

    everything = np.ones(len(tiles), dtype=bool)
    chosen = table.best(everything)
    of_group, tenths = {}, np.empty(len(tiles), dtype=np.int64)
    for group in np.unique(groups).tolist():
        inside = groups == group
        of_group[group] = table.best(~inside) if not inside.all() else Postprocess()
        tenths[inside] = table.of(of_group[group])[inside] if not inside.all() else by_threshold[:, -1]
    at = least.tolist().index(chosen.min_area)
    curve = table.with_rule(chosen.blank_is_empty)[:, :, at].mean(axis=0) / 10
    return Choice(
        postprocess=chosen,
        score=float(table.of(chosen).mean() / 10),
        curve=tuple(zip(thresholds, curve.tolist(), strict=True)),
        of_group=of_group,
        tenths=tenths,
        plain=by_threshold[:, -1],
    )


class _Table:
    """Scores of all tiles with all candidates, in tenths."""

    def __init__(
        self,
        scores: NDArray[np.int8],
        empty: NDArray[np.int8],
        blank: NDArray[np.bool_],
        thresholds: tuple[float, ...],
        areas: tuple[int, ...],
    ) -> None:
        self.scores, self.empty, self.blank = scores, empty, blank
        self.thresholds, self.areas = thresholds, areas
        # In the order in which they win a tie.
        self.candidates = sorted(
            (at for at in np.ndindex(len(thresholds), len(areas))),
            key=lambda at: (areas[at[1]], round(abs(thresholds[at[0]] - 0.5), 6)),
        )

    def with_rule(self, blank_is_empty: bool) -> NDArray[np.int8]:
        """The scores, [N, thresholds, areas], where the rule for blank tiles is applied or not."""
        forced = (self.blank & blank_is_empty)[:, None, None]
        return np.where(forced, self.empty[:, None, None], self.scores)

    def best(self, inside: NDArray[np.bool_]) -> Postprocess:
        """The best candidate of some tiles."""
        blank = self.blank & inside
        rule = bool(blank.any() and (self.empty[blank] > 0).all())
        sums = self.with_rule(rule)[inside].sum(axis=0, dtype=np.int64)
        threshold, area = max(self.candidates, key=lambda at: sums[at])  # the first of the best
        return Postprocess(threshold=self.thresholds[threshold], min_area=self.areas[area], blank_is_empty=rule)

    def of(self, chosen: Postprocess) -> NDArray[np.int8]:
        """[N], the scores with one candidate."""
        at = self.thresholds.index(chosen.threshold), self.areas.index(chosen.min_area)
        return self.with_rule(chosen.blank_is_empty)[:, at[0], at[1]]
