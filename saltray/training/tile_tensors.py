"""The tiles of a job as tensors on the device, 8 bits per pixel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saltray.data.random import random_int64, tile_keys
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError

_ORDER = 1 << 32
"""Purpose of the random numbers for the order of an epoch; the augmentation's are small integers."""


@dataclass(frozen=True, eq=False)
class TileTensors:
    """Images and masks on a device, in the order of the tiles that they are created from.

    Args:
        images: uint8 [N, H, W], 0..255.
        masks: uint8 [N, H, W], 0 or 1; 0 everywhere, in the memory of one pixel, for tiles without masks.
        keys: int64 [N], a hash of each tile's id, from which all random numbers of the tile are derived.
    """

    images: Tensor
    masks: Tensor
    keys: Tensor

    @classmethod
    def create(cls, tiles: Tiles, device: torch.device) -> "TileTensors":
        """Copy tiles to the device.

        Raises:
            DataError: there are no tiles.
        """
        if len(tiles) == 0:
            raise DataError("a fold has 0 tiles to train or validate on; use fewer folds or more tiles")
        images = torch.tensor(tiles.images, device=device)
        if isinstance(tiles, LabelledTiles):
            masks = torch.tensor(tiles.masks, device=device)
        else:
            masks = torch.zeros((), dtype=torch.uint8, device=device).expand(images.shape)
        return cls(
            images=images,
            masks=masks,
            keys=tile_keys(tiles.ids).to(device),
        )

    def with_others(self, others: "TileTensors") -> "TileTensors":
        """These tiles and others on the same device."""
        return TileTensors(
            images=torch.cat([self.images, others.images]),
            masks=torch.cat([self.masks, others.masks]),
            keys=torch.cat([self.keys, others.keys]),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def steps(self, batch_size: int) -> int:
        """Number of steps per epoch; the last batch is filled up."""
        return -(-len(self) // batch_size)

    def epoch_order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """Positions of the tiles in each step's global batch: int64 [steps, batch_size].

        The tiles are sorted by a hash of their keys, so the order does not depend on their positions. The last batch is
        filled up with the first tiles of the order.
        """
        order = random_int64(self.keys, seed, epoch, _ORDER).argsort()
        filled = torch.arange(self.steps(batch_size) * batch_size, device=order.device) % len(order)
        return order[filled].view(-1, batch_size)
