"""The optional parts of a decoder's blocks."""

from dataclasses import astuple

import pytest
import torch
from torch import nn

from saltray.models.parts import PLAIN, DecoderParts, ScSE


def test_a_plain_decoder_has_none() -> None:
    assert DecoderParts() == PLAIN
    assert not any(astuple(PLAIN))


@pytest.mark.parametrize("channels", [1, 5])
def test_scse_starts_as_the_identity(channels: int) -> None:
    x = torch.randn(2, channels, 4, 6)
    assert torch.equal(ScSE(channels)(x), x)


def test_scse_adds_what_it_scales_by_channel_and_by_pixel() -> None:
    part = ScSE(4)
    for p in part.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 4, 3, 5)
    with torch.no_grad():
        means = torch.stack([tile.flatten(1).mean(1) for tile in x])
        hidden = (means @ part.squeeze.weight.T + part.squeeze.bias).clamp(min=0)
        assert hidden.shape == (2, 2)  # half as many, as published
        channel = 1 / (1 + torch.exp(-(hidden @ part.excite.weight.T + part.excite.bias)))
        scores = (x * part.spatial.weight[0, :, 0, 0].view(1, 4, 1, 1)).sum(1) + part.spatial.bias
        pixel = 1 / (1 + torch.exp(-scores))
        torch.testing.assert_close(part(x), x * channel.view(2, 4, 1, 1) + x * pixel.view(2, 1, 3, 5))


def test_gradients_of_scse_are_those_of_finite_differences() -> None:
    part = ScSE(2).double()
    for p in part.parameters():
        nn.init.normal_(p)
    nn.init.ones_(part.squeeze.bias)  # keeps the ReLU away from its kink
    nn.init.constant_(part.squeeze.weight, 0.1)
    names = [name for name, _ in part.named_parameters()]

    def scale(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(part, dict(zip(names, values, strict=True)), (x,))
        return result

    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scale, (x, *(p.detach().requires_grad_() for p in part.parameters())))
