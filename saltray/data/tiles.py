"""The tiles of a data set, in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one size, with or without their masks.

    Args:
        ids: one a tile, ascending; images and masks stand in the same order.
        images: [N, H, W] grey, 0..255.
        masks: [N, H, W] of 0 and 1 (salt), or None for unlabelled tiles.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None

    def __post_init__(self) -> None:
        assert all(a < b for a, b in zip(self.ids, self.ids[1:], strict=False)), "ids must ascend"
        assert self.images.dtype == np.uint8
        assert self.images.ndim == 3
        assert len(self.images) == len(self.ids)
        assert self.masks is None or (self.masks.dtype == np.uint8 and self.masks.shape == self.images.shape)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def height(self) -> int:
        """Height of every tile, in pixels."""
        return int(self.images.shape[1])

    @property
    def width(self) -> int:
        """Width of every tile, in pixels."""
        return int(self.images.shape[2])

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Tiles":
        """The tiles of these positions (or where the mask is true), kept in order of their ids."""
        chosen = np.flatnonzero(index) if index.dtype == np.bool_ else np.sort(index)
        return Tiles(
            ids=tuple(self.ids[i] for i in chosen.tolist()),
            images=self.images[chosen],
            masks=None if self.masks is None else self.masks[chosen],
        )
