"""The base class of the networks: input checks, normalisation, output."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAST_LAYER = "final."
"""Prefix of the tensors of every network's last layer, a convolution of 1x1."""


class Network(nn.Module, ABC):
    """A segmentation network.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255) -> [B, num_classes, H, W]:
    logits for one class, log-probabilities over the classes for several. The network itself normalises its input by
    ImageNet's mean and standard deviation.

    Args:
        num_classes: number of output channels.

    Raises:
        ModelError: in the forward pass, where the input has another shape or data type, or its height or width is not
            a multiple of `multiple`.
    """

    multiple: ClassVar[int]
    """Height and width of the input must be multiples of this, in pixels."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Key prefixes under which published checkpoints repeat the encoder's tensors -> the prefixes of the state dict."""
    backbone: str | None = None
    """Torchvision's name of the network whose pretrained weights fit `encoder`; None if there is none."""
    encoder: nn.Module
    """The part that pretrained weights can be loaded into."""
    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Not persistent, so that the state dict has the keys of the published networks.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class's docstring."""
        self._check(images)
        scores = self.segment((images - self.mean) / self.std)  # broadcasts a grey image to three channels
        return scores if self.num_classes == 1 else F.log_softmax(scores, dim=1)

    @abstractmethod
    def segment(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> raw scores [B, num_classes, H, W]."""

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ModelError(f"input has shape {list(images.shape)}; expected [B, 1, H, W] or [B, 3, H, W]")
        if not images.is_floating_point():
            raise ModelError(f"input has dtype {images.dtype}; expected floats in 0..1, that is pixels / 255")
        height, width = images.shape[2:]
        if height % self.multiple or width % self.multiple:
            fit_height, fit_width = (-(-side // self.multiple) * self.multiple for side in (height, width))
            raise ModelError(
                f"input is {height}x{width}; {type(self).__name__} needs multiples of {self.multiple}: "
                f"pad it to {fit_height}x{fit_width}"
            )
