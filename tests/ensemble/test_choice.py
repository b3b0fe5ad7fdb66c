"""The post-processing that predictions choose, worked by hand, and against the slow way to score it."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saltray.data.tiles import LabelledTiles
from saltray.ensemble.choice import AREAS, THRESHOLDS, Choice, PostprocessScores
from saltray.ensemble.postprocess import Postprocess
from saltray.training.metrics import Counts

NO_AREA = (0.0,)


def choose_postprocess(
    probabilities: NDArray[np.floating],
    tiles: LabelledTiles,
    groups: NDArray[np.int64],
    thresholds: tuple[float, ...] = THRESHOLDS,
    areas: tuple[float, ...] = AREAS,
    *,
    rows: int = 1000,
) -> Choice:
    """The choice on tiles that are added so many at a time."""
    scores = PostprocessScores(tiles.height * tiles.width, thresholds, areas)
    for start in range(0, len(tiles), rows):
        part = slice(start, start + rows)
        scores.add(probabilities[part], tiles.masks[part], tiles.images[part], groups[part])
    return scores.choose()


def labelled(masks: NDArray[np.uint8], *, blank: tuple[int, ...] = ()) -> LabelledTiles:
    """Tiles of these masks; the pixels of those that are not blank differ."""
    images = np.zeros(masks.shape, np.uint8)
    images[:, 0, 0] = [0 if tile in blank else 9 for tile in range(len(masks))]
    return LabelledTiles(tuple(f"{tile:04d}" for tile in range(len(masks))), images, masks)


def rows(*values: list[float]) -> NDArray[np.float32]:
    """Tiles of one line, [N, 1, W]."""
    return np.array(values, np.float32)[:, None]


def tiles_of(*values: list[int], blank: tuple[int, ...] = ()) -> LabelledTiles:
    return labelled(np.array(values, np.uint8)[:, None], blank=blank)


def alternating(count: int) -> NDArray[np.int64]:
    return np.arange(count) % 2


def test_the_best_threshold_wins() -> None:
    # Of three pixels of salt one is weak: above 0.7 it is lost, and an IoU of 2/3 exceeds 0.50, 0.55, 0.60 and 0.65.
    # Below 0.3 the empty pixel is taken as salt, and 3/4 exceeds 0.70 as well.
    probabilities, tiles = rows([0.9, 0.9, 0.7, 0.3], [0.9, 0.9, 0.7, 0.3]), tiles_of([1, 1, 1, 0], [1, 1, 1, 0])
    choice = choose_postprocess(probabilities, tiles, alternating(2), (0.2, 0.4, 0.8), NO_AREA)
    assert choice.curve == ((0.2, 0.5), (0.4, 1.0), (0.8, 0.4))
    assert (choice.postprocess, choice.score) == (Postprocess(threshold=0.4), 1.0)
    assert choice.plain.tolist() == [10, 10]


def test_the_least_area_removes_a_false_pixel() -> None:
    # At every threshold one pixel of the first tile is taken for salt. Two pixels are the least: the score rises from
    # 1/2 to 1. Three would cost the other tile.
    probabilities, tiles = rows([0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]), tiles_of([0, 0, 0, 0], [1, 1, 0, 0])
    choice = choose_postprocess(probabilities, tiles, alternating(2), (0.4, 0.5), (0.0, 0.5, 0.75))
    assert (choice.postprocess, choice.score) == (Postprocess(threshold=0.5, min_area=2), 1.0)
    assert choice.curve == ((0.4, 1.0), (0.5, 1.0))
    assert choice.plain.tolist() == [0, 10]


@pytest.mark.parametrize(
    ("thresholds", "nearest"),
    [((0.2, 0.3, 0.4), 0.4), ((0.6, 0.7, 0.8), 0.6), ((0.2, 0.46, 0.52, 0.8), 0.52), ((0.8, 0.5, 0.2), 0.5)],
)
def test_ties_go_to_the_smallest_area_and_then_nearest_to_a_half(thresholds: tuple[float, ...], nearest: float) -> None:
    probabilities, tiles = rows([0.9, 0.9, 0.1, 0.1]), tiles_of([1, 1, 0, 0])
    choice = choose_postprocess(probabilities, tiles, alternating(1), thresholds, (0.25, 0.0, 0.5))
    assert choice.score == 1.0
    assert choice.postprocess == Postprocess(threshold=nearest)


@pytest.mark.parametrize(
    ("blank", "salt", "rule"),
    [((), 0, False), ((1,), 0, True), ((1,), 1, False), ((1, 2), 0, True), ((1, 2), 1, False)],
)
def test_blank_tiles_are_emptied_where_all_of_them_have_no_salt(blank: tuple[int, ...], salt: int, rule: bool) -> None:
    # The model sees salt everywhere; tile 2 has none, and tile 1 has some where `salt` is 1.
    tiles = tiles_of([1, 1], [salt, salt], [0, 0], blank=blank)
    choice = choose_postprocess(rows([0.9, 0.9], [0.9, 0.9], [0.9, 0.9]), tiles, alternating(3), (0.5,), NO_AREA)
    assert choice.postprocess.blank_is_empty == rule
    assert choice.score == pytest.approx((1 + salt + (len(blank) if rule else 0)) / 3)


def test_each_group_is_scored_with_the_choice_of_the_others() -> None:
    # The tile of group 0 needs a threshold below 0.3, those of group 1 one above 0.6.
    probabilities = rows([0.3, 0.3, 0.1, 0.1], [0.9, 0.9, 0.6, 0.1], [0.9, 0.9, 0.6, 0.1])
    tiles = tiles_of([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0])
    choice = choose_postprocess(probabilities, tiles, np.array([0, 1, 1]), (0.2, 0.7), NO_AREA)
    # At 0.7 group 1 is right; at 0.2 it has an IoU of 2/3, so 0.7 is the best of all: (0 + 1 + 1) / 3.
    assert choice.postprocess == Postprocess(threshold=0.7)
    assert choice.score == pytest.approx(2 / 3)
    assert choice.of_group == {0: Postprocess(threshold=0.7), 1: Postprocess(threshold=0.2)}
    assert choice.tenths.tolist() == [0, 4, 4]


def test_of_one_group_nothing_is_chosen_for_its_score() -> None:
    probabilities, tiles = rows([0.4, 0.4], [0.9, 0.9]), tiles_of([1, 1], [1, 1])
    choice = choose_postprocess(probabilities, tiles, np.zeros(2, np.int64), (0.2, 0.7), NO_AREA)
    assert choice.postprocess == Postprocess(threshold=0.2)
    assert choice.of_group == {0: Postprocess()}
    assert choice.tenths.tolist() == [0, 10]


@pytest.mark.parametrize("rows", [40, 7, 1])
def test_all_candidates_are_scored_as_their_masks_are(rows: int) -> None:
    """However many tiles are added at a time."""
    draw = np.random.default_rng(3)
    masks = (draw.random((40, 10, 10)) < draw.random((40, 1, 1)) * (draw.random((40, 1, 1)) < 0.6)).astype(np.uint8)
    probabilities = np.clip(0.45 * masks + 0.55 * draw.random(masks.shape), 0, 1).astype(np.float16)
    tiles = labelled(masks, blank=tuple(np.flatnonzero(~masks.any(axis=(1, 2)))[:3].tolist()))
    groups = np.arange(40) % 3
    choice = choose_postprocess(probabilities, tiles, groups, rows=rows)

    def score(rule: Postprocess, index: NDArray[np.bool_]) -> float:
        found = rule.apply(probabilities[index], tiles.images[index]).astype(np.float32)
        return Counts.of(torch.from_numpy(found), torch.from_numpy(masks[index]), 0.5).score

    everything = np.ones(40, dtype=bool)
    areas = sorted({round(share * 100) for share in AREAS})
    best = max(
        score(Postprocess(threshold=threshold, min_area=area, blank_is_empty=True), everything)
        for threshold in THRESHOLDS
        for area in areas
    )
    assert choice.score == pytest.approx(score(choice.postprocess, everything)) == pytest.approx(best)
    for group, rule in choice.of_group.items():
        assert choice.tenths[groups == group].mean() / 10 == pytest.approx(score(rule, groups == group))
    assert choice.plain.mean() / 10 == pytest.approx(score(Postprocess(), everything))
    assert dict(choice.curve)[choice.postprocess.threshold] == pytest.approx(choice.score)


def test_the_candidates() -> None:
    assert (THRESHOLDS[0], THRESHOLDS[15], THRESHOLDS[-1], len(THRESHOLDS)) == (0.2, 0.5, 0.8, 31)
    assert [round(share * 101 * 101) for share in AREAS] == [0, 10, 20, 31, 51, 77, 102, 153, 204, 306, 408, 612]
