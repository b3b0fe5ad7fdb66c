"""What the out-of-fold predictions of a run are worth, with all that a reader needs to trust the score."""

from collections.abc import Sequence
from statistics import stdev

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config
from saltray.ensemble.choice import Choice
from saltray.runs.records import FoldResult
from saltray.training.evaluation import Evaluation, FoldScore, Price, Reliability
from saltray.training.scores import bootstrap_interval, score_by_stratum


def evaluate(
    choice: Choice,
    reliability: Reliability,
    salt: NDArray[np.int64],
    pixels: int,
    fold_of: NDArray[np.int64],
    results: Sequence[FoldResult],
    config: Config,
) -> Evaluation:
    """The cross-fitted score, its interval and its parts, the reliability of the probabilities, and prices.

    Args:
        choice: of the post-processing, with the folds as its groups.
        reliability: of the probabilities, out of fold.
        salt: [N], pixels of salt of each tile.
        pixels: of a tile.
        fold_of: [N], the fold of each tile.
        results: of all folds.
        config: of the run.
    """
    folds = tuple(
        FoldScore(fold=row.fold, score=float(choice.tenths[fold_of == row.fold].mean() / 10)) for row in results
    )
    score = float(choice.tenths.mean() / 10)
    costs = [row.cost for row in results if row.cost is not None]
    return Evaluation(
        weights=scored_weights(config),
        score=score,
        interval=bootstrap_interval(choice.tenths),
        folds=folds,
        spread=stdev(row.score for row in folds) if len(folds) > 1 else None,
        optimism=choice.score - score,
        strata=score_by_stratum(choice.tenths, salt, pixels),
        reliability=reliability,
        prices=_prices(float(choice.plain.mean() / 10), results),
        device=" and ".join(sorted({cost.device for cost in costs})) or None,
    )


def scored_weights(config: Config) -> str:
    """Which weights of a training are scored and published, in words."""
    decay, epochs, snapshots = config.optim.ema_decay, config.train.epochs, config.train.snapshots
    what = f"moving average of the weights (EMA, decay {decay:g})" if decay else "weights"
    when = f"after the last epoch, {epochs}"
    if snapshots > 1:
        when = f"at the ends of the last {snapshots} cycles of {epochs} epochs, whose probabilities are averaged"
    return f"{what} {when}; no epoch is selected by its score"


def _prices(score: float, results: Sequence[FoldResult]) -> tuple[Price, ...]:
    """One model, all snapshots of a fold, and all models, without and with mirror images, which are a second pass.

    Args:
        score: out of fold, of a fold's snapshots together with mirror images.
        results: of all folds.
    """
    tiles = [row.tiles for row in results]
    costs = [row.cost for row in results if row.cost is not None]
    plain = seconds = gain = None
    if len(costs) == len(results):
        plain = _mean([cost.score_without_tta for cost in costs], tiles)
        seconds = _mean([cost.seconds for cost in costs], tiles)
        gains = np.repeat(np.arange(-10, 11), np.sum([cost.gains or [0] * 21 for cost in costs], axis=0))
        gain = bootstrap_interval(gains) if len(gains) == sum(tiles) else None
    last = _mean([row.models[-1].score for row in results], tiles)
    snapshots = len(results[0].models)
    rows = [(1, False, plain), (1, True, last)]
    rows += [(snapshots, True, score)] if snapshots > 1 else []
    rows += [(snapshots * len(results), tta, None) for tta in (False, True)]
    return tuple(
        Price(
            models=models,
            tta=tta,
            score=own,
            seconds=None if seconds is None else models * seconds / (2 - tta),
            gain=gain if (models, tta) == (1, True) else None,
        )
        for models, tta, own in rows
    )


def _mean(values: Sequence[float], tiles: Sequence[int]) -> float:
    """Weighted by the folds' tiles."""
    return sum(value * count for value, count in zip(values, tiles, strict=True)) / sum(tiles)
