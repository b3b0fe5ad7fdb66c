"""What out-of-fold predictions are worth, put together from parts that have tests of their own."""

from dataclasses import replace

import numpy as np
import pytest

from saltray.config import Config, OptimConfig, TrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.ensemble.choice import PostprocessScores
from saltray.runs.evaluation import evaluate, scored_weights
from saltray.runs.records import FoldResult, PredictionCost, Snapshot
from saltray.training.evaluation import Evaluation, FoldScore, Price
from saltray.training.scores import PixelsByProbability, bootstrap_interval

CONFIG = Config(data="d", train=TrainConfig(epochs=60))
FOLD_OF = np.array([0, 1, 0, 1])
COSTS = (
    PredictionCost(score_without_tta=0.5, seconds=0.010, device="CPU"),
    PredictionCost(score_without_tta=0.7, seconds=0.016, device="CPU"),
)


def fold_result(
    fold: int, cost: PredictionCost | None, tiles: int = 2, snapshots: tuple[float, ...] = ()
) -> FoldResult:
    """A fold with a score of 0.6, or with snapshots of these scores."""
    return FoldResult(
        fold=fold,
        tiles=tiles,
        score=0.6,
        iou=0.5,
        dice=0.5,
        epochs=1,
        seconds=1.0,
        started=0.0,
        finished=1.0,
        weights_sha256="0" * 64,
        oof_sha256="0" * 64,
        snapshots=tuple(
            Snapshot(cycle=cycle, key=f"{cycle}.safetensors", sha256="0" * 64, score=score)
            for cycle, score in enumerate(snapshots, start=1)
        ),
        cost=cost,
    )


def evaluation_of(tiles: LabelledTiles, *results: FoldResult) -> Evaluation:
    """Of predictions that are right on the first three tiles at any threshold, and on the last one below 0.4."""
    probabilities = np.where(tiles.masks > 0, 0.9, 0.1).astype(np.float16)
    probabilities[3] = 0.4
    scores, pixels = PostprocessScores(6, (0.3, 0.5), (0.0,)), PixelsByProbability()
    scores.add(probabilities, tiles.masks, tiles.images, FOLD_OF)
    pixels.add(probabilities, tiles.masks)
    salt = tiles.masks.sum(axis=(1, 2), dtype=np.int64)
    return evaluate(scores.choose(), pixels.reliability(), salt, 6, FOLD_OF, results, CONFIG)


def test_the_headline_is_cross_fitted(tiles: LabelledTiles) -> None:
    found = evaluation_of(tiles, *(fold_result(fold, cost) for fold, cost in enumerate(COSTS)))
    # On fold 0 both thresholds are right, so fold 1 is scored at the one nearer to 0.5, which misses its last tile. On
    # fold 1, 0.3 is better, and right on fold 0, too.
    assert found.folds == (FoldScore(fold=0, score=1.0), FoldScore(fold=1, score=0.5))
    assert found.score == 0.75
    assert found.spread == pytest.approx(0.5 / np.sqrt(2))
    assert found.optimism == pytest.approx(0.25)  # at 0.3 all four tiles are right
    assert found.interval.low < 0.75 < found.interval.high
    assert [(row.name, row.tiles) for row in found.strata] == [
        ("no salt", 2),
        ("50.0 to 50.0 % salt", 1),
        ("100.0 to 100.0 % salt", 1),
    ]
    assert found.reliability.largest == pytest.approx(0.9, abs=1e-3)
    assert (found.weights, found.device) == (scored_weights(CONFIG), "CPU")


def test_what_choices_cost(tiles: LabelledTiles) -> None:
    first, second = fold_result(0, COSTS[0], tiles=3), fold_result(1, COSTS[1], tiles=1)
    single, seconds = pytest.approx(0.55), (3 * 0.010 + 0.016) / 4  # weighted by tiles
    assert evaluation_of(tiles, first, second).prices == (
        Price(models=1, tta=False, score=single, seconds=pytest.approx(seconds / 2)),
        Price(models=1, tta=True, score=pytest.approx(0.6), seconds=pytest.approx(seconds)),
        Price(models=2, tta=False, score=None, seconds=pytest.approx(seconds)),
        Price(models=2, tta=True, score=None, seconds=pytest.approx(2 * seconds)),
    )
    mixed = replace(second, cost=replace(COSTS[1], device="NVIDIA H100"))
    assert evaluation_of(tiles, first, mixed).device == "CPU and NVIDIA H100"


def test_what_mirror_images_add_has_an_interval(tiles: LabelledTiles) -> None:
    """Of four tiles one gains 3 tenths and one loses 1."""
    gains = np.bincount(np.array([[3, 0], [0, -1]]).ravel() + 10, minlength=21)
    first, second = np.bincount([13, 10], minlength=21), np.bincount([10, 9], minlength=21)
    costs = [replace(cost, gains=tuple(each.tolist())) for cost, each in zip(COSTS, (first, second), strict=True)]
    found = evaluation_of(tiles, *(fold_result(fold, cost) for fold, cost in enumerate(costs)))
    expected = bootstrap_interval(np.repeat(np.arange(-10, 11), gains))
    assert [row.gain for row in found.prices] == [None, expected, None, None]
    assert expected.low < 0.05 < expected.high
    earlier = evaluation_of(tiles, fold_result(0, costs[0]), fold_result(1, COSTS[1]))  # written before there was it
    assert {row.gain for row in earlier.prices} == {None}


def test_snapshots_of_a_fold_have_an_out_of_fold_score_of_their_own(tiles: LabelledTiles) -> None:
    folds = [fold_result(fold, COSTS[0], snapshots=(0.3, 0.4 + 0.2 * fold)) for fold in range(2)]
    assert evaluation_of(tiles, *folds).prices == (
        Price(models=1, tta=False, score=0.5, seconds=pytest.approx(0.005)),
        Price(models=1, tta=True, score=pytest.approx(0.5), seconds=pytest.approx(0.010)),  # of the last ones
        Price(models=2, tta=True, score=0.75, seconds=pytest.approx(0.020)),  # of the predictions, at 0.5
        Price(models=4, tta=False, score=None, seconds=pytest.approx(0.020)),
        Price(models=4, tta=True, score=None, seconds=pytest.approx(0.040)),
    )


def test_a_fold_of_an_earlier_version_has_no_cost(tiles: LabelledTiles) -> None:
    found = evaluation_of(tiles, fold_result(0, None), fold_result(1, COSTS[1]))
    assert [(row.score, row.seconds) for row in found.prices] == [
        (None, None),
        (pytest.approx(0.6), None),
        (None, None),
        (None, None),
    ]


def test_the_scored_weights_are_named() -> None:
    assert scored_weights(CONFIG) == (
        "moving average of the weights (EMA, decay 0.998) after the last epoch, 60; no epoch is selected by its score"
    )
    cycles = OptimConfig(ema_decay=0.0, schedule="cycles", cycles=4)
    several = replace(CONFIG, optim=cycles, train=TrainConfig(epochs=60, snapshots=3))
    assert scored_weights(several) == (
        "weights at the ends of the last 3 cycles of 60 epochs, whose probabilities are averaged; no epoch is selected "
        "by its score"
    )
    plain = replace(CONFIG, optim=OptimConfig(ema_decay=0.0))
    assert scored_weights(plain) == "weights after the last epoch, 60; no epoch is selected by its score"
