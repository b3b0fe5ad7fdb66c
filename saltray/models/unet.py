"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with padded convolutions and BatchNorm."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.network import Features, Network
from saltray.models.parts import PLAIN, DecoderParts, ScSE
from saltray.models.stem import stem

DEPTH = 4
"""Number of times that the encoder halves the resolution."""


class UNet(Network):
    """U-Net, with BatchNorm and with convolutions padded so that the output has the size of the input.

    Source: Ronneberger, Fischer and Brox 2015, arXiv:1505.04597; BatchNorm: Ioffe and Szegedy 2015, arXiv:1502.03167.
    There are no published weights of its encoder.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 16
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several; with deep
    supervision in training mode, an `Output`.

    Args:
        num_classes: number of output channels.
        num_filters: half the decoder's channels at full resolution; 32 as published (512, 256, 128, 64 channels).
        encoder_width: the encoder's channels at full resolution; 64 as published (64, 128, 256, 512, 1024 channels).
        in_channels: 1 for grey images alone, or 3.
        is_deconv: upsample by 2x2 transposed convolutions, otherwise bilinearly with a 3x3 convolution.
        parts: optional parts of the decoder, which has BatchNorm without them.

    Raises:
        ModelError: `in_channels` is another number, or `parts` has `batchnorm`; in the forward pass, the input has
            another shape, data type or size.
    """

    multiple = 2**DEPTH

    def __init__(
        self,
        num_classes: int = 1,
        num_filters: int = 32,
        *,
        encoder_width: int = 64,
        in_channels: int = 3,
        is_deconv: bool = True,
        parts: DecoderParts = PLAIN,
    ) -> None:
        super().__init__(num_classes, in_channels)
        if parts.batchnorm:
            raise ModelError("the decoder of UNet has BatchNorm as it is; leave parts.batchnorm out")
        up = [2 * num_filters << level for level in reversed(range(DEPTH))]
        self.encoder = UNetEncoder(encoder_width, in_channels)
        *down, bottom = self.encoder.channels
        self.upsample = nn.ModuleList(
            _upsample(inputs, outputs, is_deconv=is_deconv) for inputs, outputs in pairwise([bottom, *up])
        )
        self.decoder = nn.ModuleList(
            _double_conv(outputs + skip, outputs) for outputs, skip in zip(up, reversed(down), strict=True)
        )
        self.scse = nn.ModuleList(map(ScSE, up)) if parts.scse else None
        self.add_heads(bottom, up, parts)

    def features(self, x: Tensor) -> Features:
        *skips, bottom = self.encoder(x)
        x, stages = bottom, []
        for level, skip in enumerate(reversed(skips)):
            x = self.decoder[level](torch.cat([self.upsample[level](x), skip], 1))
            if self.scse is not None:
                x = self.scse[level](x)
            stages.append(x)
        return Features(bottom, tuple(stages))


class UNetEncoder(nn.ModuleList):
    """The contracting path: [B, in_channels, H, W] -> [B, width, H, W] to [B, 16 width, H/16, W/16].

    Attributes:
        channels: channels of each output.
    """

    def __init__(self, width: int, in_channels: int) -> None:
        channels = tuple(width << level for level in range(DEPTH + 1))
        first = stem(in_channels, width, 3, bias=False)
        super().__init__(
            [_double(first, width), *(_double_conv(inputs, outputs) for inputs, outputs in pairwise(channels))]
        )
        self.channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for stage in self:
            x = stage(F.max_pool2d(x, 2) if outputs else x)
            outputs.append(x)
        return tuple(outputs)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return _double(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), outputs)


def _double(first: nn.Conv2d, outputs: int) -> nn.Sequential:
    """`first` and a second 3x3 convolution, without biases: BatchNorm subtracts the mean and adds its own."""
    return nn.Sequential(
        first,
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _upsample(inputs: int, outputs: int, *, is_deconv: bool) -> nn.Module:
    if is_deconv:
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(inputs, outputs, 3, padding=1)
    )
