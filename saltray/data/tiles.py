"""The tiles of a data set, in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one size.

    Args:
        ids: one per tile, ascending; images are in the same order.
        images: [N, H, W] grey, 0..255.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]

    def __post_init__(self) -> None:
        assert all(a < b for a, b in zip(self.ids, self.ids[1:], strict=False)), "ids must ascend"
        assert self.images.dtype == np.uint8
        assert self.images.ndim == 3
        assert len(self.images) == len(self.ids)

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
        """The tiles at these positions (or where the boolean index is true), in ascending order of their ids."""
        chosen = _positions(index)
        return Tiles(tuple(self.ids[i] for i in chosen.tolist()), self.images[chosen])


@dataclass(frozen=True, eq=False)
class LabelledTiles(Tiles):
    """Tiles and their masks.

    Args:
        ids: as for `Tiles`.
        images: as for `Tiles`.
        masks: [N, H, W] of 0 and 1 (salt), in the same order.
    """

    masks: NDArray[np.uint8]

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.masks.dtype == np.uint8
        assert self.masks.shape == self.images.shape

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "LabelledTiles":
        """As `Tiles.select`, with the masks."""
        chosen = _positions(index)
        return LabelledTiles(tuple(self.ids[i] for i in chosen.tolist()), self.images[chosen], self.masks[chosen])


def _positions(index: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ascending positions from positions in any order or from a boolean index."""
    return np.flatnonzero(index) if index.dtype == np.bool_ else np.sort(index).astype(np.int64, copy=False)
