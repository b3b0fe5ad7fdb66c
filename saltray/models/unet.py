"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) as it is used today: padded convolutions and BatchNorm."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.network import Network

DEPTH = 4  # halvings of the resolution


class UNet(Network):
    """U-Net; see `Network` for its input and output. There are no pre-trained weights for it.

    Args:
        num_classes: channels of the output.
        num_filters: half the decoder's channels at full resolution; 32 is the published network (512, 256, 128, 64).
        encoder_width: the encoder's channels at full resolution; 64 is the published network (64 .. 1024).
        is_deconv: upsample by 2x2 transposed convolutions, otherwise bilinearly with a 3x3 convolution.
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
    # No bias: BatchNorm has one.
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
