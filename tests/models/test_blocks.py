"""The shared modules: shapes, arithmetic and initialisation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saltray.models.blocks import ConvReLU, DecoderBlock, initialise_encoder


def test_conv_relu_has_a_bias_and_clips_at_zero() -> None:
    block = ConvReLU(2, 5)
    x = torch.randn(1, 2, 6, 7)
    with torch.no_grad():
        result = block(x)
        assert result.shape == (1, 5, 6, 7)
        torch.testing.assert_close(result, F.conv2d(x, block.conv.weight, block.conv.bias, padding=1).clamp(min=0))
    assert block.conv.bias is not None
    assert (result == 0).any()


@pytest.mark.parametrize("is_deconv", [True, False])
def test_decoder_block_doubles_the_resolution(is_deconv: bool) -> None:
    block = DecoderBlock(3, 4, 2, is_deconv=is_deconv)
    result = block(torch.randn(2, 3, 5, 6))
    assert result.shape == (2, 2, 10, 12)
    assert result.min() == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    assert any(isinstance(module, nn.ConvTranspose2d) for module in block.modules()) == is_deconv


def test_transposed_convolution_has_no_checkerboard() -> None:
    block = DecoderBlock(1, 1, 1, is_deconv=True)
    for p in block.parameters():
        nn.init.ones_(p)
    result = block(torch.ones(1, 1, 8, 8))[0, 0]
    inner = result[4:-4, 4:-4]  # away from the padding
    assert inner.unique().numel() == 1


def test_encoders_start_with_kaiming_normal_weights_and_zero_biases() -> None:
    first, second = nn.Conv2d(64, 128, 3), nn.Conv2d(128, 32, 5)
    initialise_encoder(nn.Sequential(first, nn.ReLU(), nn.Sequential(second)))
    for conv, fan_out in ((first, 128 * 9), (second, 32 * 25)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        assert conv.weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert conv.bias is not None
        assert not conv.bias.any()
