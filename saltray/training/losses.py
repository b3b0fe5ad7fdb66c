"""The training loss."""

import torch.nn.functional as F
from torch import Tensor

from saltray.config import TrainConfig


def tile_losses(logits: Tensor, masks: Tensor, config: TrainConfig) -> Tensor:
    """`config.bce` times the binary cross-entropy plus `config.dice` times the soft Dice loss, of each tile.

    The cross-entropy is the mean over a tile's pixels. The soft Dice loss of a tile with probabilities p and mask t is
    1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1): that of V-Net (Milletari, Navab and Ahmadi 2016) without the squares;
    the added 1 gives an empty prediction of an empty tile a loss of 0. Both are computed per tile, so the mean over a
    batch does not depend on how the ranks divide it.

    Args:
        logits: [B, 1, H, W].
        masks: [B, 1, H, W] of 0 and 1.
        config: the two weights.

    Returns:
        float32 [B].
    """
    logits, masks = logits.float().flatten(1), masks.float().flatten(1)
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1)
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)
    return config.bce * bce + config.dice * dice
