"""All tiles of a job as one rank sees them, from which the batches of every fold are gathered.

On the host they are the arrays of the shards, as Ray's object store shares them among all ranks of a node: nothing is
copied but the batch. On a GPU they may be copied once, for all folds of the rank. Masks stay bits until they are in a
batch, so both kinds give the same batches to the bit.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saltray.data.random import tile_keys
from saltray.data.tiles import LabelledTiles, Tiles

Cache = Literal["device", "host"]
"""Where the tiles are kept during training."""
PART_BYTES = 8 * 2**20
"""Of pixels in a part, where tiles are in memory."""
SHARE = 0.5
"""Of a rank's memory on a GPU, the most that tiles may take: the network needs the rest."""


@dataclass(frozen=True, eq=False)
class TilePart:
    """Some tiles as arrays alone, which processes can share without a copy.

    Args:
        ids: [n] in UTF-8.
        keys: int64 [n], the `tile_keys` of the ids.
        images: uint8 [n, H, W].
        mask_bits: uint8 [n, ceil(H * W / 8)], as numpy.packbits makes them; [n, 0] for tiles without masks.
    """

    ids: NDArray[np.bytes_]
    keys: NDArray[np.int64]
    images: NDArray[np.uint8]
    mask_bits: NDArray[np.uint8]

    @classmethod
    def create(cls, ids: Sequence[str], images: NDArray[np.uint8], mask_bits: NDArray[np.uint8] | None = None) -> Self:
        """From tiles as they are read; None for tiles without masks."""
        return cls(
            ids=np.array([name.encode() for name in ids], dtype=np.bytes_),
            keys=tile_keys(ids).numpy(),
            images=images,
            mask_bits=np.empty((len(ids), 0), np.uint8) if mask_bits is None else mask_bits,
        )

    @classmethod
    def of(cls, tiles: Tiles) -> Self:
        """From tiles in memory."""
        if not isinstance(tiles, LabelledTiles):
            return cls.create(tiles.ids, tiles.images)
        pixels = tiles.masks.reshape(len(tiles), tiles.height * tiles.width)
        return cls.create(tiles.ids, tiles.images, np.packbits(pixels, axis=1))

    @classmethod
    def several(cls, tiles: Tiles) -> Iterator[Self]:
        """From tiles in memory, a few MiB in each."""
        rows = max(1, PART_BYTES // (tiles.height * tiles.width))
        for start in range(0, len(tiles), rows):
            yield cls.of(tiles.select(np.arange(start, min(start + rows, len(tiles)))))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def bytes_per_tile(self) -> int:
        """Bytes of a tile's pixels and mask."""
        return int(self.images[0].size + self.mask_bits.shape[1])


class TilePool(Protocol):
    """Where the batches come from."""

    keys: Tensor
    """int64 [N], on the device."""
    height: int
    width: int

    def batches(self, positions: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and masks, uint8 [B, H, W] on the device, of `size` tiles after another; the last may be fewer.

        Args:
            positions: int64 [n], on the device.
            size: number of tiles of a batch.
        """


class HostPool:
    """Tiles that stay where the parts are.

    Args:
        parts: in the order of the tiles; all tiles are of one size.
        device: where the batches go.
    """

    def __init__(self, parts: Sequence[TilePart], device: torch.device) -> None:
        self.parts, self.device = parts, device
        self.height, self.width = parts[0].images.shape[1:]
        self.keys = torch.from_numpy(np.concatenate([part.keys for part in parts])).to(device)
        self._starts = np.cumsum([0, *map(len, parts)])

    def batches(self, positions: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `TilePool.batches`; on a GPU a batch is gathered and copied while the last one computes."""
        chosen = torch.split(positions.cpu(), size)
        if self.device.type == "cpu":
            for each in chosen:
                yield self._unpacked(*self.gather(each.numpy()))
            return
        copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # untyped in torch
        with ThreadPoolExecutor(1) as thread:
            pending = thread.submit(self.gather, chosen[0].numpy())
            for following in [*chosen[1:], None]:
                images, bits = pending.result()
                if following is not None:
                    pending = thread.submit(self.gather, following.numpy())
                with torch.cuda.stream(copies):
                    here = [part.to(self.device, non_blocking=True) for part in (images, bits)]
                computes = torch.cuda.current_stream(self.device)
                computes.wait_stream(copies)
                for part in here:
                    part.record_stream(computes)  # else its memory could be reused by the next copy
                yield self._unpacked(here[0], here[1])

    def gather(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images and bits of masks of some tiles, on the host; in page-locked memory if they go to a GPU."""
        first, pinned = self.parts[0], self.device.type == "cuda"
        images, bits = (
            torch.empty((len(positions), *part.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
            for part in (first.images, first.mask_bits)
        )
        into_images, into_bits = images.numpy(), bits.numpy()
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(part_of).tolist():
            here = np.flatnonzero(part_of == number)
            rows = positions[here] - self._starts[number]
            into_images[here] = self.parts[number].images[rows]
            into_bits[here] = self.parts[number].mask_bits[rows]
        return images, bits

    def _unpacked(self, images: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
        return images, unpack_masks(bits, self.height, self.width)


class DevicePool:
    """Tiles that are copied to the device.

    Args:
        images: uint8 [N, H, W].
        mask_bits: uint8 [N, ceil(H * W / 8)], or [N, 0] for tiles without masks.
        keys: int64 [N].
    """

    def __init__(self, images: Tensor, mask_bits: Tensor, keys: Tensor) -> None:
        self.images, self.mask_bits, self.keys = images, mask_bits, keys
        self.height, self.width = images.shape[1:]

    @classmethod
    def create(cls, parts: Sequence[TilePart], device: torch.device) -> Self:
        """Copy the tiles, a part at a time."""
        count = sum(map(len, parts))
        images, bits = (
            torch.empty((count, *like.shape[1:]), dtype=torch.uint8, device=device)
            for like in (parts[0].images, parts[0].mask_bits)
        )
        start = 0
        for part in parts:
            rows = slice(start, start + len(part))
            images[rows], bits[rows] = torch.tensor(part.images), torch.tensor(part.mask_bits)
            start = rows.stop
        return cls(images, bits, torch.from_numpy(np.concatenate([part.keys for part in parts])).to(device))

    def batches(self, positions: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `TilePool.batches`."""
        for each in torch.split(positions, size):
            yield self.images[each], unpack_masks(self.mask_bits[each], self.height, self.width)


def ids_of(parts: Sequence[TilePart], positions: NDArray[np.int64]) -> list[str]:
    """The ids of some tiles of all parts, by their positions."""
    starts = np.cumsum([0, *map(len, parts)])
    part_of = np.searchsorted(starts, positions, side="right") - 1
    places = zip(part_of.tolist(), positions.tolist(), strict=True)
    return [parts[number].ids[position - starts[number]].decode() for number, position in places]


def unpack_masks(bits: Tensor, height: int, width: int) -> Tensor:
    """Masks, uint8 [B, H, W] of 0 and 1, from bits [B, ceil(H * W / 8)]; all 0, in the memory of a pixel, from none."""
    if bits.shape[1] == 0:
        return torch.zeros((), dtype=torch.uint8, device=bits.device).expand(len(bits), height, width)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    pixels = (bits[..., None] >> shifts) & 1
    return pixels.flatten(1)[:, : height * width].view(-1, height, width)


def open_pool(parts: Sequence[TilePart], device: torch.device, cache: Cache) -> TilePool:
    """The pool of all tiles of a job, kept as `cache` says."""
    return DevicePool.create(parts, device) if cache == "device" else HostPool(parts, device)


def choose_cache(needed: int, free: int, total: int, share: float) -> Cache:
    """Where the tiles of a rank are kept: on its GPU if they leave room for the network.

    Args:
        needed: bytes of all tiles.
        free: bytes of the GPU that nothing uses.
        total: bytes of the GPU.
        share: of the GPU that is this rank's, 0..1.
    """
    return "device" if needed <= SHARE * min(free, share * total) else "host"
