"""The moving average of the weights, by hand."""

import copy

import pytest
import torch
from torch import nn

from saltray.training.ema import WeightAverager


def test_average_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    average = copy.deepcopy(model)
    averager = WeightAverager(average, model, decay=0.2)
    expected_weight, expected_mean = 1.0, 0.0
    for step, decay in enumerate([1 / 10, 2 / 11, 0.2, 0.2]):  # 3/12 and 4/13 exceed 0.2
        with torch.no_grad():
            model.weight.add_(step + 1)
            assert model.running_mean is not None
            assert model.num_batches_tracked is not None
            model.running_mean.sub_(1)
            model.num_batches_tracked.add_(1)
        averager.update(step)
        expected_weight = decay * expected_weight + (1 - decay) * float(model.weight.detach())
        expected_mean = decay * expected_mean + (1 - decay) * float(model.running_mean)
    assert float(average.weight.detach()) == pytest.approx(expected_weight, rel=1e-6)
    assert average.running_mean is not None
    assert float(average.running_mean) == pytest.approx(expected_mean, rel=1e-6)
    assert int(average.num_batches_tracked or 0) == 4


def test_decay_of_zero_copies() -> None:
    model, average = nn.Linear(3, 2), nn.Linear(3, 2)
    WeightAverager(average, model, decay=0).update(7)
    assert torch.equal(average.weight, model.weight)
    assert torch.equal(average.bias, model.bias)
