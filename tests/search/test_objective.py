"""What a search maximises: a score decides, then the loss, then the first."""

import math
from dataclasses import replace

import pytest
from samples import metrics

from saltray.search.objective import best_epoch, objective


def test_the_best_epoch() -> None:
    first, better, worse = metrics(1, 0.5), metrics(2, 0.6), metrics(3, 0.4)
    assert best_epoch([first, better, worse]) == better
    lower = replace(first, epoch=4, valid_loss=0.1)
    assert best_epoch([first, lower]) == lower
    assert best_epoch([first, replace(first, epoch=4)]) == first
    assert best_epoch([metrics(1, None), worse, metrics(4, None)]) == worse


def test_without_a_score_there_is_no_best_epoch() -> None:
    assert best_epoch([]) is None
    assert best_epoch([metrics(1, None), metrics(2, None)]) is None


def test_a_score_counts_for_more_than_any_loss() -> None:
    # One tile of a hundred thousand, at one of ten thresholds.
    assert objective(replace(metrics(1, 0.5 + 1e-6), valid_loss=1e9)) > objective(metrics(1, 0.5, loss=0.0))
    losses = [objective(metrics(1, 0.5, loss=loss)) for loss in (0.0, 0.5, 1.0, 50.0)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_a_loss_that_is_no_number_counts_as_the_worst(loss: float | None) -> None:
    assert objective(replace(metrics(1, 0.5), valid_loss=loss)) == 0.5


def test_a_score_that_is_no_number_counts_as_none() -> None:
    assert objective(None) == objective(metrics(1, None)) == objective(metrics(1, math.nan)) == 0.0
