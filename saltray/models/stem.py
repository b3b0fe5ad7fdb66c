"""Normalisation of the input, and the first convolution of an encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN = (0.449,)
"""Mean and standard deviation by which a grey channel is normalised: those of ImageNet, averaged over its channels."""
GREY_STD = (0.226,)


class GreyStem(nn.Conv2d):
    """First convolution for grey images, [B, 1, H, W], that can compute what one for RGB does with their copies.

    A network for RGB normalises each of three equal channels by another mean, then pads them with zeros. Summed over
    the channels, its weights give the same values but for what the difference of the means adds: a constant inside, and
    less of it at the border, where a part of the kernel lies on the padding. `offset` holds that difference for each
    weight of the kernel, and is convolved with an image of ones. It is a buffer, zero unless weights for RGB are
    loaded.
    """

    offset: Tensor

    def __init__(self, outputs: int, kernel_size: int, *, stride: int, bias: bool) -> None:
        super().__init__(1, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias)
        self.register_buffer("offset", torch.zeros_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        added = F.conv2d(torch.ones_like(x[:1]), self.offset, None, self.stride, self.padding)
        return super().forward(x) + added

    @staticmethod
    def from_rgb(weight: Tensor) -> tuple[Tensor, Tensor]:
        """`weight` and `offset` for the weights of a convolution for RGB, [outputs, 3, height, width]."""
        exact = weight.double()
        mean, std = (exact.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        summed = (exact * (GREY_STD[0] / std)).sum(1, keepdim=True)
        return summed, (exact * ((GREY_MEAN[0] - mean) / std)).sum(1, keepdim=True)


def stem(in_channels: int, outputs: int, kernel_size: int, *, stride: int = 1, bias: bool) -> nn.Conv2d:
    """The first convolution of an encoder, padded by half its kernel: a `GreyStem` for one channel."""
    if in_channels == 1:
        return GreyStem(outputs, kernel_size, stride=stride, bias=bias)
    return nn.Conv2d(in_channels, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias)
