"""The tiles on the device, and the order of an epoch."""

import numpy as np
import pytest
import torch

from saltray.data.random import tile_keys
from saltray.data.tiles import LabelledTiles
from saltray.errors import DataError
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_tensors import TileTensors


def test_batches_are_the_tiles(tiles: LabelledTiles, tensors: TileTensors) -> None:
    assert (len(tensors), tensors.height, tensors.width) == (20, 40, 40)
    batches = list(tensors.batches(torch.arange(20), 8))
    assert [len(batch.images) for batch in batches] == [8, 8, 4]
    np.testing.assert_array_equal(torch.cat([batch.images for batch in batches]), tiles.images)
    np.testing.assert_array_equal(torch.cat([batch.masks for batch in batches]), tiles.masks)
    assert torch.equal(torch.cat([batch.keys for batch in batches]), tile_keys(tiles.ids))
    assert list(tensors.batches(torch.arange(0), 8)) == []


def test_tiles_of_a_fold_are_positions_in_the_pool(tiles: LabelledTiles, tensors: TileTensors) -> None:
    fold = TileTensors(tensors.pool, torch.tensor([2, 5, 11, 17]))
    index = torch.tensor([3, 0])
    batch = fold.batch(index)
    np.testing.assert_array_equal(batch.images, tiles.images[[17, 2]])
    np.testing.assert_array_equal(batch.masks, tiles.masks[[17, 2]])
    assert torch.equal(batch.keys, fold.keys[index])


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
