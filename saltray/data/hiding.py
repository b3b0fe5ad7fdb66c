"""Patches of tiles to hide from a network that learns to fill them in. On the tiles' device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saltray.data.random import random_int64
from saltray.errors import ConfigError

_PATCHES = 1 << 33
"""Purpose of the random numbers; those of the augmentation are small integers, that of an epoch's order is 1 << 32."""


@dataclass(frozen=True)
class PatchHider:
    """Chooses the hidden patches of each tile: as many in every tile, and others in every epoch.

    The patches are a grid from the tile's upper left corner; the last ones of a row and a column may be smaller. Which
    are hidden is a function of (tile key, seed, epoch), whatever the batch, the rank and the device.

    Args:
        share: share of the patches to hide, between 0 and 1.
        patch: height and width of a patch, in pixels.
        seed: seed of the random numbers.
    """

    share: float
    patch: int
    seed: int

    def count(self, height: int, width: int) -> int:
        """Number of hidden patches of a tile of this size.

        Raises:
            ConfigError: that is none or all of them.
        """
        rows, columns = self._grid(height, width)
        total = rows * columns
        hidden = round(self.share * total)
        if not 0 < hidden < total:
            raise ConfigError(
                f"pretrain.hidden {self.share:g} hides {hidden} of the {total} patches of {self.patch} pixels in a "
                f"tile of {height}x{width}; use a smaller pretrain.patch, or a share nearer to 0.5"
            )
        return hidden

    def __call__(self, keys: Tensor, height: int, width: int, epoch: int) -> Tensor:
        """1 for each hidden pixel, 0 for the others: uint8 [B, height, width].

        Args:
            keys: int64 [B], the `tile_keys` of the tiles.
            height: of the tiles, in pixels.
            width: of the tiles, in pixels.
            epoch: number of the epoch.

        Raises:
            ConfigError: as `count`.
        """
        rows, columns = self._grid(height, width)
        patches = torch.arange(rows * columns, device=keys.device)
        # The patches that come first in a random order.
        order = random_int64(keys[:, None], self.seed, epoch, _PATCHES + patches).argsort(dim=1)
        hidden = torch.zeros(order.shape, dtype=torch.uint8, device=keys.device)
        hidden.scatter_(1, order[:, : self.count(height, width)], 1)
        grid = hidden.view(-1, rows, columns)
        pixels = grid.repeat_interleave(self.patch, dim=1).repeat_interleave(self.patch, dim=2)
        return pixels[:, :height, :width]

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return -(-height // self.patch), -(-width // self.patch)
