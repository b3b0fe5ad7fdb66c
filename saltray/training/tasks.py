"""What a network learns from tiles: how they become its inputs and targets, and the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saltray.config import Config, PretrainConfig
from saltray.data.augment import Augmenter
from saltray.data.hiding import PatchHider
from saltray.models.network import Output
from saltray.training.losses import batch_loss
from saltray.training.schedule import loss_at

LossFunction = Callable[[Tensor | Output, Tensor], Tensor]
"""The mean loss of a batch, a scalar, of a network's outputs in training mode and the targets."""


class Task(Protocol):
    """What the training loop needs to know of a task."""

    def batch(self, images: Tensor, masks: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step.

        Args:
            images: uint8 [B, H, W], 0..255.
            masks: uint8 [B, H, W], 0 or 1.
            keys: int64 [B], the `tile_keys` of the tiles.
            epoch: number of the epoch.

        Returns:
            float32 [B, 1, S, S] inputs in 0..1, and targets [B, K, S, S].
        """

    def loss(self, outputs: Tensor | Output, targets: Tensor, epoch: int) -> Tensor:
        """The mean loss of a batch, a scalar: a mean over tiles, whatever the ranks that they are divided among.

        Args:
            outputs: of the network in training mode.
            targets: as `batch` returns them.
            epoch: number of the epoch.
        """


@dataclass(frozen=True)
class Segmentation:
    """Tell the pixels of salt, from augmented tiles and their masks.

    Args:
        config: augmentation, input size, seed and loss.
    """

    config: Config

    def batch(self, images: Tensor, masks: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        return _augmenter(self.config)(images, masks, keys, epoch)

    def loss(self, outputs: Tensor | Output, targets: Tensor, epoch: int) -> Tensor:
        return batch_loss(outputs, targets, loss_at(epoch, self.config))


@dataclass(frozen=True)
class Inpainting:
    """Fill in hidden patches: masked image modelling by the whole network, which needs no masks of salt.

    As in SimMIM (Xie et al. 2022, arXiv:2111.09886) random patches are hidden, the network regresses their pixels, and
    the loss is L1 on these alone; encoder and decoder are both trained, as in context encoders (Pathak et al. 2016,
    arXiv:1604.07379) and Models Genesis (Zhou et al. 2019, arXiv:1908.06912). Of a convolutional network a hidden patch
    has a constant value, here the mean of the tile's visible pixels (A2MIM, Li et al. 2023, arXiv:2205.13943, takes the
    mean of all images), and what is regressed is the difference from it.

    The patches are hidden in the tile, before it is augmented and padded: so no reflection of a hidden pixel is
    visible.

    Args:
        config: augmentation, input size and seed.
        settings: how much is hidden.
    """

    config: Config
    settings: PretrainConfig

    def batch(self, images: Tensor, masks: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The targets are [B, 2, S, S]: the differences from the fill, and 1 where they are hidden."""
        hider = PatchHider(self.settings.hidden, self.settings.patch, self.config.train.seed)
        hidden = hider(keys, images.shape[1], images.shape[2], epoch)
        whole, hidden_pixels = _augmenter(self.config)(images, hidden, keys, epoch)
        visible = 1 - hidden_pixels
        fill = _mean(whole, visible)
        targets = torch.cat([whole - fill, hidden_pixels], dim=1)
        return torch.where(hidden_pixels > 0, fill, whole), targets

    def loss(self, outputs: Tensor | Output, targets: Tensor, epoch: int) -> Tensor:  # noqa: ARG002
        assert isinstance(outputs, Tensor), "the other outputs of deep supervision have no loss"
        difference, hidden = targets[:, :1], targets[:, 1:]
        return _mean((outputs.float() - difference).abs(), hidden).mean()


def _augmenter(config: Config) -> Augmenter:
    train = config.train
    return Augmenter(config.augment, train.input_size, train.seed, train.resize)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of each tile, [B, 1, 1, 1]; 0 where all weights are 0."""
    total = (values * weights).sum(dim=(1, 2, 3), keepdim=True)
    return total / weights.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
