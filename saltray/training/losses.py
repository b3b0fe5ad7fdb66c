"""What training minimises."""

import torch.nn.functional as F
from torch import Tensor

from saltray.config import TrainConfig


def tile_losses(logits: Tensor, masks: Tensor, config: TrainConfig) -> Tensor:
    """`config.bce` times the binary cross-entropy plus `config.dice` times the soft Dice loss, of each tile: [B].

    Cross-entropy is the mean over a tile's pixels. Soft Dice is 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) over one
    tile (Milletari, Navab and Ahmadi, V-Net, 2016, without the squares; the 1 makes an empty prediction of an empty
    tile perfect). Both are taken tile by tile, so the mean over a batch is the same however ranks share it.

    Args:
        logits: [B, 1, H, W].
        masks: [B, 1, H, W] of 0 and 1.
        config: the two weights.
    """
    logits, masks = logits.float().flatten(1), masks.float().flatten(1)
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1)
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)
    return config.bce * bce + config.dice * dice
