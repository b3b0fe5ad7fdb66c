"""The shared modules: shapes, arithmetic and initialisation."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saltray.models.blocks import ConvReLU, DecoderBlock, StridedPointwise, initialise_encoder
from saltray.models.parts import DecoderParts


def test_conv_relu_has_a_bias_and_clips_at_zero() -> None:
    block = ConvReLU(2, 5)
    x = torch.randn(1, 2, 6, 7)
    with torch.no_grad():
        result = block(x)
        assert result.shape == (1, 5, 6, 7)
        torch.testing.assert_close(result, F.conv2d(x, block.conv.weight, block.conv.bias, padding=1).clamp(min=0))
    assert block.conv.bias is not None
    assert (result == 0).any()


def test_batchnorm_stands_between_convolution_and_relu() -> None:
    block = ConvReLU(2, 5, batchnorm=True)
    x = torch.randn(3, 2, 6, 7)
    expected = F.relu(F.batch_norm(F.conv2d(x, block.conv.weight, padding=1), None, None, training=True))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_deconv", [True, False])
def test_decoder_block_doubles_the_resolution(is_deconv: bool) -> None:
    block = DecoderBlock(3, 4, 2, is_deconv=is_deconv)
    result = block(torch.randn(2, 3, 5, 6))
    assert result.shape == (2, 2, 10, 12)
    assert result.min() == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    assert any(isinstance(module, nn.ConvTranspose2d) for module in block.modules()) == is_deconv


@pytest.mark.parametrize(
    ("is_deconv", "norms"), [(True, {"block.0.norm", "block.norm"}), (False, {"block.1.norm", "block.2.norm"})]
)
def test_parts_of_a_decoder_block_add_to_its_names_and_start_without_effect(is_deconv: bool, norms: set[str]) -> None:
    plain = DecoderBlock(3, 4, 2, is_deconv=is_deconv).eval()
    parts = DecoderParts(batchnorm=True, scse=True)
    block = DecoderBlock(3, 4, 2, is_deconv=is_deconv, parts=parts).eval()
    added = {key.rpartition(".")[0] for key in block.state_dict().keys() - plain.state_dict().keys()}
    assert added == norms | {"scse.squeeze", "scse.excite", "scse.spatial"}
    assert not block.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-5)
    assert block.train()(x).min() == 0  # ReLU follows the last BatchNorm


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


@pytest.mark.parametrize("stride", [2, 3])
def test_strided_pointwise_is_a_strided_convolution(stride: int) -> None:
    block = StridedPointwise(5, 7, stride)
    assert list(block.state_dict()) == ["weight"]
    x = torch.randn(2, 5, 10, 13, requires_grad=True)
    result, expected = block(x), F.conv2d(x, block.weight, stride=stride)
    torch.testing.assert_close(result, expected)
    for got, wanted in zip(*(torch.autograd.grad(y.sum(), [x, block.weight]) for y in (result, expected)), strict=True):
        torch.testing.assert_close(got, wanted)


THIN_BACKWARD = """
import torch
from saltray.models.albunet import AlbuNet
from saltray.models.blocks import StridedPointwise
from saltray.models.parts import DecoderParts

def gradient(network, x):
    network.zero_grad()
    network(x).square().mean().backward()
    return torch.cat([p.grad.flatten().double() for p in network.parameters()])

def check(network, x, tolerance):
    network.to(memory_format=torch.channels_last)
    found = gradient(network, x.contiguous(memory_format=torch.channels_last))
    exact = gradient(network.double().to(memory_format=torch.contiguous_format), x.double())
    assert (found - exact).norm() <= tolerance * exact.norm(), (network, x.shape)

torch.manual_seed(0)
torch.set_num_threads(1)
for width in (2, 4, 8, 12):
    for batch, size in ((2, 32), (4, 64), (1, 128)):
        check(StridedPointwise(width, 2 * width, 2), torch.rand(batch, width, size, size), 1e-4)
for width, size in ((4, 128), (8, 64), (8, 256)):
    check(AlbuNet(num_filters=4, encoder_width=width), torch.rand(2, 1, size, size), 1e-2)
parts = DecoderParts(scse=True, hypercolumn=True)
for width, size in ((2, 64), (4, 128)):
    network = AlbuNet(num_filters=4, encoder="resnet50", encoder_width=width, in_channels=1, parts=parts)
    check(network, torch.rand(2, 1, size, size), 1e-2)
"""
"""Run in a process of its own: it dies where memory is overwritten."""


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_gradients_of_thin_networks_are_right_and_overwrite_nothing(instructions: str) -> None:
    debug = {"GLIBC_TUNABLES": "glibc.malloc.check=3", "LD_PRELOAD": "libc_malloc_debug.so.0"}  # ignored where absent
    subprocess.run(
        [sys.executable, "-c", THIN_BACKWARD],
        env=os.environ | debug | {"ONEDNN_MAX_CPU_ISA": instructions},
        check=True,
        timeout=300,
    )
