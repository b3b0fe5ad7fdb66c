"""The tiles of a data set: all in memory, a shard of them, or what is known of all without their pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
        assert all(a < b for a, b in pairwise(self.ids)), "ids must ascend"
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

    @property
    def coverage(self) -> NDArray[np.float64]:
        """[N] share of salt of each tile."""
        return np.asarray(self.masks.mean(axis=(1, 2), dtype=np.float64))

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "LabelledTiles":
        """As `Tiles.select`, with the masks."""
        chosen = _positions(index)
        return LabelledTiles(tuple(self.ids[i] for i in chosen.tolist()), self.images[chosen], self.masks[chosen])


@dataclass(frozen=True, eq=False)
class TileShard:
    """Consecutive labelled tiles, as a packed data set has them.

    Args:
        ids: one per tile, ascending.
        images: [n, H, W] grey, 0..255.
        mask_bits: [n, ceil(H * W / 8)], a row of bits per mask, in C order and padded with zeros (`pack_masks`).
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    mask_bits: NDArray[np.uint8]

    def __post_init__(self) -> None:
        tiles, height, width = self.images.shape
        assert len(self.ids) == tiles
        assert self.mask_bits.shape == (tiles, -(-height * width // 8))

    def __len__(self) -> int:
        return len(self.ids)

    def masks(self) -> NDArray[np.uint8]:
        """The masks, [n, H, W] of 0 and 1."""
        _, height, width = self.images.shape
        return np.unpackbits(self.mask_bits, axis=1, count=height * width).reshape(self.images.shape)


@dataclass(frozen=True, eq=False)
class TileIndex:
    """What a split into folds needs to know of labelled tiles: no pixels.

    Args:
        ids: [N], unique.
        salt: [N] salt pixels of each tile.
        same_mask: [N] position of the first tile with the same mask; a tile without salt has its own.
        area: pixels of a tile.
    """

    ids: tuple[str, ...]
    salt: NDArray[np.int64]
    same_mask: NDArray[np.int64]
    area: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def coverage(self) -> NDArray[np.float64]:
        """[N] share of salt of each tile."""
        return np.asarray(self.salt / self.area)

    @classmethod
    def of(cls, ids: Sequence[str], masks: NDArray[np.uint8]) -> "TileIndex":
        """The index of tiles in memory.

        Args:
            ids: as above.
            masks: [N, H, W] of 0 and 1, in the same order.
        """
        salt = masks.sum(axis=(1, 2), dtype=np.int64)
        digests = mask_digests(pack_masks(masks))
        return cls(tuple(ids), salt, first_of_same(digests, salt), masks[0].size)


def pack_masks(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks [n, H, W] as rows of bits, padded to whole bytes."""
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


def mask_digests(mask_bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[n, 2] numbers that are equal for equal rows alone."""
    whole = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(mask_bits))
    return np.frombuffer(whole, np.uint64).reshape(-1, 2)


def first_of_same(digests: NDArray[np.uint64], salt: NDArray[np.int64]) -> NDArray[np.int64]:
    """`TileIndex.same_mask`, from `mask_digests` and the salt pixels of the same tiles."""
    order = np.lexsort(digests.T)  # stable, so the first of equal ones comes first
    ranked = digests[order]
    starts = np.flatnonzero(np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1)))
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    return np.where(salt > 0, first, np.arange(len(order)))


def _positions(index: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ascending positions from positions in any order or from a boolean index."""
    return np.flatnonzero(index) if index.dtype == np.bool_ else np.sort(index).astype(np.int64, copy=False)
