"""Tiles are in ascending order of their ids, and a selection keeps the order and the type."""

import numpy as np
import pytest

from saltray.data.tiles import LabelledTiles, TileIndex, Tiles, TileShard, pack_masks

IDS = ("a", "b", "c")
IMAGES = np.arange(3 * 2 * 5, dtype=np.uint8).reshape(3, 2, 5)
MASKS = IMAGES % 2


def test_size() -> None:
    tiles = Tiles(IDS, IMAGES)
    assert (len(tiles), tiles.height, tiles.width) == (3, 2, 5)


@pytest.mark.parametrize("index", [np.array([2, 0]), np.array([0, 2], np.int32), np.array([True, False, True])])
@pytest.mark.parametrize("tiles", [Tiles(IDS, IMAGES), LabelledTiles(IDS, IMAGES, MASKS)])
def test_select_keeps_type_and_order(tiles: Tiles, index: np.ndarray) -> None:
    some = tiles.select(index)
    assert type(some) is type(tiles)
    assert some.ids == ("a", "c")
    np.testing.assert_array_equal(some.images, IMAGES[[0, 2]])
    if isinstance(some, LabelledTiles):
        np.testing.assert_array_equal(some.masks, MASKS[[0, 2]])


@pytest.mark.parametrize(
    ("ids", "images", "masks"),
    [
        (("b", "a", "c"), IMAGES, MASKS),
        (("a", "a", "c"), IMAGES, MASKS),
        (("a", "b"), IMAGES, MASKS),
        (IDS, IMAGES.astype(np.float32), MASKS),
        (IDS, IMAGES[0], MASKS),
        (IDS, IMAGES, MASKS[:, :, :1]),
        (IDS, IMAGES, MASKS.astype(bool)),
    ],
)
def test_inconsistent_arguments_are_asserted(ids: tuple[str, ...], images: np.ndarray, masks: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        LabelledTiles(ids, images, masks)


def test_masks_of_a_shard_are_unpacked() -> None:
    shard = TileShard(IDS, IMAGES, pack_masks(MASKS))
    assert shard.mask_bits.shape == (3, 2)
    np.testing.assert_array_equal(shard.masks(), MASKS)
    assert shard.masks().dtype == np.uint8
    with pytest.raises(AssertionError):
        TileShard(IDS, IMAGES, pack_masks(MASKS)[:2])


def test_index_finds_equal_masks_and_no_tile_without_salt_is_equal_to_another() -> None:
    masks = np.zeros((7, 3, 3), np.uint8)
    masks[[1, 4, 6], 0, 0] = 1
    masks[[2, 3], 1] = 1
    index = TileIndex.of("gfedcba", masks)
    assert index.salt.tolist() == [0, 1, 3, 3, 1, 0, 1]
    assert index.same_mask.tolist() == [0, 1, 2, 2, 1, 5, 1]
    assert (len(index), index.area) == (7, 9)
    assert index.coverage.tolist() == LabelledTiles(tuple("abcdefg"), masks, masks).coverage.tolist()
