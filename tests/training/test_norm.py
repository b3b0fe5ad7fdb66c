"""Synchronised BatchNorm: on one rank it is plain BatchNorm, gradient included; on two it has the global statistics."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from saltray.training.norm import average_buffers, convert_sync_batchnorm
from saltray.training.process_group import ProcessGroup

TwoRanks = dict[str, dict[str, Any]]


def losses(case: dict[str, Any]) -> list[float]:
    return [epoch[name] for epoch in case["metrics"] for name in ("loss", "valid_loss")]


def test_one_rank_computes_plain_batchnorm(single: ProcessGroup) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=0.3), nn.ReLU()))
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_()
    other = convert_sync_batchnorm(copy.deepcopy(plain), single)
    assert not [module for module in other.modules() if type(module) is nn.BatchNorm2d]
    assert [*plain.state_dict()] == [*other.state_dict()]
    for _ in range(3):
        # A large mean and a small variance, where the mean of squares would suffer from cancellation.
        x = torch.randn(4, 2, 5, 6) + 1000
        outputs, gradients = [], []
        for model in (plain, other):
            model.zero_grad()
            y = model(x)
            (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
            outputs.append(y)
            gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-1)
    torch.testing.assert_close(other.state_dict(), plain.state_dict())
    torch.testing.assert_close(other.eval()(x), plain.eval()(x))


def test_half_precision_inputs_give_half_precision_outputs(single: ProcessGroup) -> None:
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(2)), single)
    assert model(torch.randn(3, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_average_buffers_divides_the_sum_of_floating_point_buffers() -> None:
    class Doubling(ProcessGroup):
        """One of two ranks, where the other one's buffers are three times ours."""

        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor.mul_(4)

    norm = nn.BatchNorm2d(2)
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(5)
    average_buffers(nn.Sequential(norm), Doubling(0, 2, torch.device("cpu")))
    assert norm.running_var.tolist() == [2, 2]
    assert int(norm.num_batches_tracked) == 5


def test_unsynchronised_statistics_change_the_losses_but_end_as_one_model(two_ranks: TwoRanks) -> None:
    alone, first, second = (two_ranks[place]["unsynchronised"] for place in ("alone", "0", "1"))
    assert losses(alone) == losses(two_ranks["alone"]["synchronised"])
    pairs = list(zip(losses(alone)[2:], losses(first)[2:], strict=True))
    assert all(one != pytest.approx(two, rel=3e-3) for one, two in pairs)
    assert losses(first) == losses(second)
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())


def test_synchronisation_leaves_the_state_dict_s_keys(two_ranks: TwoRanks) -> None:
    keys = [two_ranks["0"][case]["model"].keys() for case in ("synchronised", "unsynchronised")]
    assert keys[0] == keys[1] == two_ranks["alone"]["synchronised"]["model"].keys()
