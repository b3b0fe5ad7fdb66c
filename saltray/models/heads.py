"""What follows a decoder, beside the last convolution."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.blocks import ConvReLU


class Hypercolumn(nn.Module):
    """Adds the earlier stages of a decoder to its last one (Hariharan et al. 2015, arXiv:1411.5752).

    The stages, coarse to fine, [B, channels[i], h, w] -> [B, channels[-1], H, W]. Each is reduced to the channels of
    the last by a 1x1 convolution, upsampled and concatenated; a 3x3 convolution with ReLU merges them. Reduced before
    they are upsampled, they have the same values as after it, and take less memory. At first the output is the last
    stage alone.

    Args:
        channels: channels of each stage.
        batchnorm: BatchNorm in the 3x3 convolution.
    """

    def __init__(self, channels: Sequence[int], *, batchnorm: bool) -> None:
        super().__init__()
        *earlier, last = channels
        self.reduce = nn.ModuleList(nn.Conv2d(inputs, last, 1) for inputs in earlier)
        self.merge = ConvReLU(len(channels) * last, last, batchnorm=batchnorm)
        nn.init.dirac_(self.merge.conv.weight)  # passes on its first channels
        nn.init.zeros_(self.merge.conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        *earlier, last = stages
        columns = [upsample(reduce(x), last) for reduce, x in zip(self.reduce, earlier, strict=True)]
        merged: Tensor = self.merge(torch.cat([last, *columns], 1))
        return merged


class Supervision(nn.Module):
    """Scores from a decoder's stages before the last, and a logit of whether the tile has any salt.

    Source: Lee et al. 2015, Deeply-Supervised Nets, arXiv:1409.5185; the logit is that of the TGS challenge's winners.

    Args:
        bottom: channels of the encoder's deepest output.
        channels: channels of each stage.
        num_classes: channels of the scores.
    """

    def __init__(self, bottom: int, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(inputs, num_classes, 1) for inputs in channels[:-1])
        self.has_salt = nn.Linear(bottom, 1)

    def forward(self, bottom: Tensor, stages: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Raw scores [B, num_classes, H, W] of each stage, and logits [B]."""
        *earlier, last = stages
        sides = tuple(upsample(side(x), last) for side, x in zip(self.sides, earlier, strict=True))
        has_salt: Tensor = self.has_salt(bottom.mean(dim=(2, 3))).squeeze(1)
        return sides, has_salt


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """`x`, bilinearly, at the height and width of `like`."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
