"""Batches from the parts of a data set: the same from host and device, whatever the parts."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from saltray.data.random import tile_keys
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.training.tile_pool import (
    Cache,
    DevicePool,
    HostPool,
    TilePart,
    TilePool,
    choose_cache,
    open_pool,
    unpack_masks,
)

CPU = torch.device("cpu")
CACHES: tuple[Cache, ...] = ("host", "device")


def odd_tiles(count: int, *, height: int = 7, width: int = 5) -> LabelledTiles:
    """Tiles whose masks do not fill whole bytes, with ids of several lengths and scripts."""
    draw = np.random.default_rng(count)
    shape = (count, height, width)
    ids = tuple(f"{at:03}" + "é" * (at % 3) for at in range(count))
    return LabelledTiles(ids, draw.integers(0, 256, shape, np.uint8), draw.integers(0, 2, shape).astype(np.uint8))


def parts_of(tiles: LabelledTiles, ends: Sequence[int]) -> list[TilePart]:
    starts = [0, *ends]
    return [TilePart.of(tiles.select(np.arange(a, b))) for a, b in zip(starts, [*ends, len(tiles)], strict=True)]


def read(pool: TilePool, positions: Sequence[int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = zip(*pool.batches(torch.tensor(positions), size), strict=True)
    return torch.cat(images), torch.cat(masks)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("ends", [(), (6,), (1, 2, 9)])
def test_batches_are_gathered_from_all_parts(cache: Cache, ends: Sequence[int]) -> None:
    tiles = odd_tiles(13)
    pool = open_pool(parts_of(tiles, ends), CPU, cache)
    assert isinstance(pool, HostPool if cache == "host" else DevicePool)
    assert (pool.height, pool.width) == (7, 5)
    assert torch.equal(pool.keys, tile_keys(tiles.ids))
    positions = [12, 0, 6, 5, 0, 9, 1, 2]
    images, masks = read(pool, positions, 3)
    assert images.dtype == masks.dtype == torch.uint8
    np.testing.assert_array_equal(images, tiles.images[positions])
    np.testing.assert_array_equal(masks, tiles.masks[positions])


@pytest.mark.parametrize("cache", CACHES)
def test_tiles_without_masks_have_empty_ones_that_take_no_memory(cache: Cache) -> None:
    tiles = odd_tiles(4)
    pool = open_pool([TilePart.of(Tiles(tiles.ids, tiles.images))], CPU, cache)
    ((images, masks),) = pool.batches(torch.tensor([3, 1]), 2)
    np.testing.assert_array_equal(images, tiles.images[[3, 1]])
    assert masks.shape == images.shape
    assert not masks.any()
    assert masks.untyped_storage().nbytes() == 1


def test_a_pool_on_the_host_copies_no_tile_before_it_is_in_a_batch() -> None:
    """The arrays may be read-only, as those of Ray's object store are, and a batch may be written to."""
    part = TilePart.of(odd_tiles(6))
    for array in (part.images, part.mask_bits, part.keys):
        array.flags.writeable = False
    pool = HostPool([part], CPU)
    assert pool.parts[0].images is part.images
    images, masks = next(pool.batches(torch.arange(6), 6))
    assert not np.shares_memory(images.numpy(), part.images)
    images.zero_()
    masks.zero_()
    assert part.images.any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 4), (3, 3), (101, 101)])
def test_masks_are_unpacked_as_they_were_packed(height: int, width: int) -> None:
    masks = odd_tiles(3, height=height, width=width).masks
    bits = torch.from_numpy(np.packbits(masks.reshape(3, -1), axis=1))
    np.testing.assert_array_equal(unpack_masks(bits, height, width), masks)


def test_a_part_is_arrays_alone_that_travel_beside_its_pickle() -> None:
    tiles = odd_tiles(200)
    part = TilePart.of(tiles)
    assert (len(part), part.bytes_per_tile) == (200, 35 + 5)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(part, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000  # nothing in it grows with the tiles
    again = pickle.loads(pickled, buffers=buffers)
    assert np.shares_memory(again.images, part.images)
    assert [name.decode() for name in again.ids.tolist()] == list(tiles.ids)


@pytest.mark.parametrize(
    ("needed", "free", "share", "cache"),
    [
        (40, 100, 1.0, "device"),
        (60, 100, 1.0, "host"),  # the network needs the rest
        (40, 100, 0.2, "host"),  # four others share the GPU
        (10, 100, 0.2, "device"),
        (10, 15, 0.2, "host"),  # another process has taken most of it
    ],
)
def test_tiles_are_kept_on_a_gpu_where_they_leave_room(needed: int, free: int, share: float, cache: Cache) -> None:
    assert choose_cache(needed, free, 100, share) == cache
