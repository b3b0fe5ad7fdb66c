"""The training loss: a weighted sum of terms, each a value per tile, whatever the batch that the tile is in.

For logits x, probabilities p = sigmoid(x), masks t, and s = 1 on salt, -1 elsewhere:

- `bce`: the binary cross-entropy, the mean over a tile's pixels.
- `dice`: 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1): the loss of V-Net (Milletari, Navab and Ahmadi 2016) without
  the squares; the added 1 gives an empty prediction of an empty tile a loss of 0.
- `lovasz`: the Lovasz hinge (Berman, Rannen Triki and Blaschko 2018, arXiv:1705.08790), the piecewise linear extension
  of 1 - IoU to the errors relu(1 - x s). On an empty tile it is the largest error: any pixel predicted as salt makes
  the IoU 0.
- `lovasz_elu`: the same of elu(1 - x s) + 1, which also has a gradient where a pixel is right beyond the margin.
- `focal`: (1 - q) ** gamma times the cross-entropy, q being the probability of the truth, the mean over a tile's pixels
  (Lin et al. 2017, arXiv:1708.02002, without weights of the classes).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saltray.config import LossConfig
from saltray.models.network import Output


def batch_loss(output: Tensor | Output, masks: Tensor, config: LossConfig) -> Tensor:
    """The loss of a batch: the mean of `tile_losses`, and what deep supervision adds.

    For an `Output` there is added `config.sides` times the sum over the side outputs of their own loss, on the tiles
    with salt only, and `config.has_salt` times the binary cross-entropy of the tiles' logits. All are means over the
    whole batch, where a tile without salt counts as 0 for the sides; so the mean of equal parts, one a rank, is the
    loss of the batch.

    Args:
        output: what the network returns in training mode.
        masks: [B, 1, H, W] of 0 and 1.
        config: the weights.

    Returns:
        a scalar.
    """
    if isinstance(output, Tensor):
        return tile_losses(output, masks, config).mean()
    loss = tile_losses(output.logits, masks, config).mean()
    has_salt = masks.flatten(1).amax(dim=1).float()
    for side in output.sides:
        loss = loss + config.sides * (has_salt * tile_losses(side, masks, config)).mean()
    return loss + config.has_salt * F.binary_cross_entropy_with_logits(_widened(output.has_salt), has_salt)


def tile_losses(logits: Tensor, masks: Tensor, config: LossConfig) -> Tensor:
    """The loss of each tile: the sum of the terms by their weights; a term without weight is not computed.

    Args:
        logits: [B, 1, H, W], of any precision.
        masks: [B, 1, H, W] of 0 and 1.
        config: the weights.

    Returns:
        float32 (for logits in float64: float64) [B].
    """
    logits = _widened(logits).flatten(1)
    masks = masks.to(logits.dtype).flatten(1)
    loss = logits.new_zeros(len(logits))
    if config.bce:
        loss = loss + config.bce * F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1)
    if config.dice:
        loss = loss + config.dice * _dice(logits, masks)
    if config.lovasz or config.lovasz_elu:
        errors = 1 - logits * (2 * masks - 1)
        gains = _jaccard_gains(errors, masks)
        if config.lovasz:
            loss = loss + config.lovasz * (errors.relu() * gains).sum(dim=1)
        if config.lovasz_elu:
            loss = loss + config.lovasz_elu * ((F.elu(errors) + 1) * gains).sum(dim=1)
    if config.focal:
        loss = loss + config.focal * _focal(logits, masks, config.focal_gamma)
    return loss


def _widened(logits: Tensor) -> Tensor:
    """In float32 at least: a mean of thousands of pixels has no digits left in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=1)
    return 1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)


@torch.no_grad()
def _jaccard_gains(errors: Tensor, masks: Tensor) -> Tensor:
    """By how much 1 - IoU of a tile grows when each pixel becomes wrong, after all pixels with larger errors: [B, P].

    The Lovasz extension is linear where the order of the errors does not change; these are its derivatives.
    """
    order = _descending(errors.detach())
    truth = masks.gather(1, order)
    salt = truth.sum(dim=1, keepdim=True)
    jaccard = 1 - (salt - truth.cumsum(dim=1)) / (salt + (1 - truth).cumsum(dim=1))
    gains = jaccard.diff(dim=1, prepend=torch.zeros_like(salt))
    return torch.empty_like(gains).scatter_(1, order, gains)


def _descending(errors: Tensor) -> Tensor:
    """The order of each tile's pixels; any order of equal errors gives the same loss, and one of its subgradients."""
    if errors.is_cpu:  # NumPy sorts by vector instructions: five times as fast as torch, and most of the loss's time
        return torch.from_numpy(np.argsort(-errors.numpy(), axis=1))
    return errors.argsort(dim=1, descending=True)


def _focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    margins = logits * (2 * masks - 1)
    # As logarithms: (1 - q) ** gamma has an infinite derivative at q = 1 where gamma is below 1.
    return -((gamma * F.logsigmoid(-margins)).exp() * F.logsigmoid(margins)).mean(dim=1)
