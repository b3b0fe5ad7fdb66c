"""The tiles on the device, and the order of an epoch."""

import numpy as np
import pytest
import torch

from saltray.data.tiles import LabelledTiles, Tiles
from saltray.errors import DataError
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_tensors import TileTensors


def test_tensors_are_the_tiles(tiles: LabelledTiles, tensors: TileTensors) -> None:
    assert len(tensors) == 20
    np.testing.assert_array_equal(tensors.images.numpy(), tiles.images)
    np.testing.assert_array_equal(tensors.masks.numpy(), tiles.masks)
    assert len(set(tensors.keys.tolist())) == 20


def test_tiles_without_masks_have_empty_ones_that_take_no_memory(tiles: LabelledTiles, single: ProcessGroup) -> None:
    tensors = TileTensors.create(Tiles(tiles.ids, tiles.images), single.device)
    assert tensors.masks.shape == tensors.images.shape
    assert not tensors.masks[[3, 1]].any()
    assert tensors.masks.untyped_storage().nbytes() == 1


def test_each_epoch_has_every_tile_and_fills_the_last_batch_with_its_first_ones(tensors: TileTensors) -> None:
    order = tensors.epoch_order(seed=0, epoch=0, batch_size=8)
    assert order.shape == (3, 8)
    assert tensors.steps(8) == 3
    assert sorted(order.flatten()[:20].tolist()) == list(range(20))
    assert torch.equal(order.flatten()[20:], order.flatten()[:4])


def test_fewer_tiles_than_a_batch_repeat(tensors: TileTensors) -> None:
    order = tensors.epoch_order(seed=0, epoch=0, batch_size=64)
    assert order.shape == (1, 64)
    assert sorted(order.flatten()[20:40].tolist()) == list(range(20))


def test_every_epoch_and_seed_has_another_order(tensors: TileTensors) -> None:
    orders = [tuple(tensors.epoch_order(seed, epoch, 20).flatten().tolist()) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert tuple(range(20)) not in orders


def test_order_depends_on_the_ids_not_on_their_positions(tiles: LabelledTiles, tensors: TileTensors) -> None:
    chosen = np.array([1, 4, 5, 11, 17])
    part = TileTensors.create(tiles.select(chosen), torch.device("cpu"))
    whole = [i for i in tensors.epoch_order(3, 1, 20).flatten().tolist() if i in chosen]
    assert chosen[part.epoch_order(3, 1, 5).flatten().numpy()].tolist() == whole


def test_a_fold_without_tiles_is_refused(tiles: LabelledTiles, single: ProcessGroup) -> None:
    with pytest.raises(DataError, match="a fold has 0 tiles .*; use fewer folds or more tiles"):
        TileTensors.create(tiles.select(np.array([], dtype=np.int64)), single.device)
