"""BatchNorm across ranks: on one rank it is plain BatchNorm, gradient and all; two ranks are in test_ranks."""

import copy

import torch
from torch import nn

from saltray.training.norm import synchronise
from saltray.training.process_group import ProcessGroup


def test_on_one_rank_it_is_plain_batchnorm(single: ProcessGroup) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=0.3), nn.ReLU()))
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_()
    other = synchronise(copy.deepcopy(plain), single)
    assert type(other[1][0]) is not nn.BatchNorm2d
    assert [*plain.state_dict()] == [*other.state_dict()]
    for _ in range(3):
        # A large mean over a small spread, where the mean of squares would cancel.
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


def test_half_precision_stays_half_precision(single: ProcessGroup) -> None:
    model = synchronise(nn.Sequential(nn.BatchNorm2d(2)), single)
    assert model(torch.randn(3, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
