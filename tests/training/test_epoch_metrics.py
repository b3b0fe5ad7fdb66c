"""Metrics of several folds as one."""

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from saltray.training.epoch_metrics import EpochMetrics, mean_metrics

FIRST = EpochMetrics(2, loss=1, lr=0.1, seconds=3, images_per_second=10, score=0.5, iou=0.2, dice=0.4, valid_loss=2)


def test_folds_in_turn_give_means_and_the_sum_of_the_times() -> None:
    other = EpochMetrics(2, loss=2, lr=0.1, seconds=5, images_per_second=30, score=1, iou=0.4, dice=0.8, valid_loss=4)
    expected = EpochMetrics(2, 1.5, 0.1, 8, 15, score=0.75, iou=0.3, dice=0.6, valid_loss=3)
    assert asdict(mean_metrics([FIRST, other])) == pytest.approx(asdict(expected))


def test_epochs_without_validation_have_none() -> None:
    unvalidated = replace(FIRST, score=None, iou=None, dice=None, valid_loss=None)
    assert mean_metrics([unvalidated, unvalidated]) == replace(unvalidated, seconds=6)


def test_one_fold_is_its_own_mean() -> None:
    assert mean_metrics([FIRST]) == FIRST


def test_import_does_not_load_torch() -> None:
    code = "import sys, saltray.training.epoch_metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
