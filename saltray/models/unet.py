"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with padded convolutions and BatchNorm."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.network import Network

DEPTH = 4
"""Number of times that the encoder halves the resolution."""


class UNet(Network):
    """U-Net, with BatchNorm and with convolutions padded so that the output has the size of the input.

    Source: Ronneberger, Fischer and Brox 2015, arXiv:1505.04597; BatchNorm: Ioffe and Szegedy 2015, arXiv:1502.03167.
    There are no published weights of its encoder.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 16
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several.

    Args:
        num_classes: number of output channels.
        num_filters: half the decoder's channels at full resolution; 32 as published (512, 256, 128, 64 channels).
        encoder_width: the encoder's channels at full resolution; 64 as published (64, 128, 256, 512, 1024 channels).
        is_deconv: upsample by 2x2 transposed convolutions, otherwise bilinearly with a 3x3 convolution.

    Raises:
        ModelError: in the forward pass, where the input has another shape, data type or size.
    """

    multiple = 2**DEPTH

    def __init__(
        self, num_classes: int = 1, num_filters: int = 32, *, encoder_width: int = 64, is_deconv: bool = True
    ) -> None:
        super().__init__(num_classes)
        down = [encoder_width << level for level in range(DEPTH + 1)]
        up = [2 * num_filters << level for level in reversed(range(DEPTH))]
        self.encoder = nn.ModuleList(_double_conv(inputs, outputs) for inputs, outputs in pairwise([3, *down]))
        self.upsample = nn.ModuleList(
            _upsample(inputs, outputs, is_deconv=is_deconv) for inputs, outputs in pairwise([down[-1], *up])
        )
        self.decoder = nn.ModuleList(
            _double_conv(outputs + skip, outputs) for outputs, skip in zip(up, reversed(down[:-1]), strict=True)
        )
        self.final = nn.Conv2d(up[-1], num_classes, 1)

    def segment(self, x: Tensor) -> Tensor:
        *stages, bottom = self.encoder.children()
        skips = []
        for stage in stages:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        x = bottom(x)
        for upsample, merge, skip in zip(self.upsample, self.decoder, reversed(skips), strict=True):
            x = merge(torch.cat([upsample(x), skip], 1))
        scores: Tensor = self.final(x)
        return scores


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    # Without biases: BatchNorm subtracts the mean and adds its own.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
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
