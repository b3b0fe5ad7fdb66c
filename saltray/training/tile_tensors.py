"""The tiles of a fold: positions in the pool of all tiles, and the order of an epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from saltray.data.random import random_int64
from saltray.data.tiles import Tiles
from saltray.errors import DataError
from saltray.training.tile_pool import HostPool, TilePart, TilePool

_ORDER = 1 << 32
"""Purpose of the random numbers for the order of an epoch; the augmentation's are small integers."""


class Batch(NamedTuple):
    """Some tiles, on the device."""

    images: Tensor
    """uint8 [B, H, W], 0..255."""
    masks: Tensor
    """uint8 [B, H, W], 0 or 1; 0 everywhere, in the memory of one pixel, for tiles without masks."""
    keys: Tensor
    """int64 [B], a hash of each tile's id, from which all random numbers of the tile are derived."""


@dataclass(frozen=True, eq=False)
class TileTensors:
    """Some tiles of a pool, none of which is copied before it is in a batch.

    Args:
        pool: all tiles of the job.
        positions: int64 [N] in the pool, on its device.

    Raises:
        DataError: there are no tiles.
    """

    pool: TilePool
    positions: Tensor

    def __post_init__(self) -> None:
        if len(self.positions) == 0:
            raise DataError("a fold has 0 tiles to train or validate on; use fewer folds or more tiles")

    @classmethod
    def create(cls, tiles: Tiles, device: torch.device) -> Self:
        """All of some tiles in memory, in their order."""
        if len(tiles) == 0:
            return cls(HostPool([TilePart.of(tiles)], device), torch.empty(0, dtype=torch.int64))
        return cls(HostPool([TilePart.of(tiles)], device), torch.arange(len(tiles), device=device))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def keys(self) -> Tensor:
        """int64 [N], of each tile."""
        return self.pool.keys[self.positions]

    @property
    def height(self) -> int:
        """Of every tile, in pixels."""
        return self.pool.height

    @property
    def width(self) -> int:
        """Of every tile, in pixels."""
        return self.pool.width

    def batches(self, index: Tensor, size: int) -> Iterator[Batch]:
        """Batches of `size` tiles, one after another; the last may be smaller.

        On a GPU that does not hold the tiles, the next batch is gathered and copied while the caller uses one.

        Args:
            index: int64 [n], which of these tiles, on the device.
            size: number of tiles of a batch.
        """
        if len(index) == 0:  # which would be split into one empty batch
            return
        positions = self.positions[index]
        for (images, masks), here in zip(self.pool.batches(positions, size), torch.split(positions, size), strict=True):
            yield Batch(images, masks, self.pool.keys[here])

    def batch(self, index: Tensor) -> Batch:
        """The one batch of these tiles, int64 [B] on the device."""
        (batch,) = self.batches(index, len(index))
        return batch

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
