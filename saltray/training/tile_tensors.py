"""A fold's tiles where they are trained on: all of them on the device, 8 bits a pixel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saltray.data.random import random_int64, tile_keys
from saltray.data.tiles import Tiles
from saltray.errors import DataError

_ORDER = 1 << 32
"""Salt of the epoch's order, apart from those of the augmentation."""


@dataclass(frozen=True, eq=False)
class TileTensors:
    """Tiles and masks on a device, in the order of the `Tiles` they came from.

    Args:
        images: uint8 [N, H, W], 0..255.
        masks: uint8 [N, H, W], 0 or 1.
        keys: int64 [N], a stable hash of each id; whatever is random about a tile follows from it.
    """

    images: Tensor
    masks: Tensor
    keys: Tensor

    @classmethod
    def create(cls, tiles: Tiles, device: torch.device) -> "TileTensors":
        """Copy labelled tiles to the device, once.

        Raises:
            DataError: there are none, or they have no masks.
        """
        if len(tiles) == 0:
            raise DataError("a fold has 0 tiles to train or validate on; use fewer folds, or more tiles")
        if tiles.masks is None:
            raise DataError(f"{len(tiles)} tiles have no masks; train on a labelled data set")
        return cls(
            images=torch.tensor(tiles.images, device=device),
            masks=torch.tensor(tiles.masks, device=device),
            keys=tile_keys(tiles.ids).to(device),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def steps(self, batch_size: int) -> int:
        """Batches an epoch, all of them whole."""
        return -(-len(self) // batch_size)

    def epoch_order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """Positions of the tiles of each step's global batch: int64 [steps, batch_size].

        A permutation of all tiles by the hash of their keys, so it does not depend on their positions; the last batch
        is filled up from the permutation's beginning.
        """
        order = random_int64(self.keys, seed, epoch, _ORDER).argsort()
        filled = torch.arange(self.steps(batch_size) * batch_size, device=order.device) % len(order)
        return order[filled].view(-1, batch_size)
