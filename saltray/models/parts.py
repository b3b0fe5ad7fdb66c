"""Optional parts of a decoder. At first each changes nothing, so that the weights of a plain network fit with it."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DecoderParts:
    """Which optional parts a decoder has."""

    batchnorm: bool = False
    """BatchNorm after each convolution."""
    scse: bool = False
    """Spatial and channel squeeze-and-excitation after each block."""
    hypercolumn: bool = False
    """All stages, upsampled, as input of the last convolution."""
    deep_supervision: bool = False
    """In training mode also scores from each stage, and whether the tile has salt."""


PLAIN = DecoderParts()
"""None of them, as published."""
SETTINGS = {
    "norm": "decoder_batchnorm",
    "scse": "scse",
    "hypercolumn": "hypercolumn",
    "supervision": "deep_supervision",
}
"""Name that the modules of a part have in a state dict -> the setting of a configuration that adds it."""


class ScSE(nn.Module):
    """Concurrent spatial and channel squeeze-and-excitation (Roy, Navab and Wachinger 2018, arXiv:1803.02579).

    [B, channels, H, W] -> the same shape: the input scaled by a factor for each channel, which depends on the means of
    the channels, plus the input scaled by a factor for each pixel. Both factors are 1/2 at first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.spatial = nn.Conv2d(channels, 1, 1)
        for layer in (self.excite, self.spatial):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        channel = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()[:, :, None, None]
        pixel = self.spatial(x).sigmoid()
        result: Tensor = x * (channel + pixel)
        return result
