"""The base class of the networks: input checks, normalisation, output."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.heads import Hypercolumn, Supervision
from saltray.models.parts import DecoderParts
from saltray.models.stem import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD

LAST_LAYER = "final."
"""Prefix of the tensors of every network's last layer, a convolution of 1x1."""


class Features(NamedTuple):
    """What a network computes before its last convolution."""

    bottom: Tensor
    """The encoder's deepest output."""
    stages: tuple[Tensor, ...]
    """Outputs of the decoder, coarse to fine; each has another size, and the last has the size of the input."""


class Output(NamedTuple):
    """What a network with deep supervision returns in training mode."""

    logits: Tensor
    """[B, num_classes, H, W]: what it returns alone in eval mode."""
    sides: tuple[Tensor, ...]
    """The same from each of the decoder's earlier stages, coarse to fine, upsampled to H x W."""
    has_salt: Tensor
    """[B]: logit that the tile has any salt."""


class Network(nn.Module, ABC):
    """A segmentation network.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255) -> [B, num_classes, H, W]:
    logits for one class, log-probabilities over the classes for several; with deep supervision in training mode, an
    `Output`. The network itself normalises its input by ImageNet's mean and standard deviation.

    Args:
        num_classes: number of output channels.
        in_channels: 3: a grey image is copied to three channels; 1: the network takes grey images alone.

    Raises:
        ModelError: `in_channels` is another number; in the forward pass, the input has another shape or data type, or
            its height or width is not a multiple of `multiple`.
    """

    multiple: ClassVar[int]
    """Height and width of the input must be multiples of this, in pixels."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Key prefixes under which published checkpoints repeat the encoder's tensors -> the prefixes of the state dict."""
    backbone: str | None = None
    """Torchvision's name of the network whose pretrained weights fit `encoder`; None if there is none."""
    encoder: nn.Module
    """Normalised images -> feature maps, fine to coarse: the part that pretrained weights can be loaded into."""
    mean: Tensor
    std: Tensor
    final: nn.Module
    hypercolumn: Hypercolumn | None
    supervision: Supervision | None

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ModelError(f"in_channels is {in_channels}; use 1 (grey) or 3 (RGB)")
        self.num_classes, self.in_channels = num_classes, in_channels
        mean, std = (GREY_MEAN, GREY_STD) if in_channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        # Not persistent, so that the state dict has the keys of the published networks.
        self.register_buffer("mean", torch.tensor(mean).view(1, in_channels, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, in_channels, 1, 1), persistent=False)

    def add_heads(self, bottom: int, stages: Sequence[int], parts: DecoderParts) -> None:
        """Add what follows the decoder; the last thing that the constructor of a network does.

        Args:
            bottom, stages: channels of `Features`.
            parts: `hypercolumn` and `deep_supervision` are added here.
        """
        self.final = nn.Conv2d(stages[-1], self.num_classes, 1)
        self.hypercolumn = Hypercolumn(stages, batchnorm=parts.batchnorm) if parts.hypercolumn else None
        self.supervision = Supervision(bottom, stages, self.num_classes) if parts.deep_supervision else None

    def forward(self, images: Tensor) -> Tensor | Output:
        """See the class's docstring."""
        self._check(images)
        # Normalising copies a grey image to as many channels as there are means.
        bottom, stages = self.features((images - self.mean) / self.std)
        logits = self._logits(self.final(stages[-1] if self.hypercolumn is None else self.hypercolumn(stages)))
        if self.supervision is None or not self.training:
            return logits
        sides, has_salt = self.supervision(bottom, stages)
        return Output(logits, tuple(map(self._logits, sides)), has_salt)

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """Encoder and decoder on normalised images [B, in_channels, H, W]."""

    def _logits(self, scores: Tensor) -> Tensor:
        return scores if self.num_classes == 1 else F.log_softmax(scores, dim=1)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ModelError(f"input has shape {list(images.shape)}; expected [B, 1, H, W] or [B, 3, H, W]")
        if images.shape[1] > self.in_channels:
            raise ModelError(
                f"input has 3 channels, but this {type(self).__name__} takes one (in_channels is 1); give grey images "
                "[B, 1, H, W], or build the network with in_channels 3"
            )
        if not images.is_floating_point():
            raise ModelError(f"input has dtype {images.dtype}; expected floats in 0..1, that is pixels / 255")
        height, width = images.shape[2:]
        if height % self.multiple or width % self.multiple:
            fit_height, fit_width = (-(-side // self.multiple) * self.multiple for side in (height, width))
            raise ModelError(
                f"input is {height}x{width}; {type(self).__name__} needs multiples of {self.multiple}: "
                f"pad it to {fit_height}x{fit_width}"
            )
