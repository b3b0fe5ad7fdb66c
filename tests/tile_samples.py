"""Small data sets as they are packed, and folds whose predictions are in memory, for tests of several rooms."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from samples import dataset
from torch import nn

from saltray.data.packed import ContentDigest, PackedDataset, tile_digests, write_index, write_shard
from saltray.data.tiles import LabelledTiles, TileIndex, TileShard, pack_masks
from saltray.runs.fold_output import FoldPredictions, write_fold, write_predictions
from saltray.runs.history import EpochRecord
from saltray.runs.records import FoldResult, PredictionCost
from saltray.storage.base import Store


def pack_tiles(folder: Store, tiles: LabelledTiles, *, rows: int = 2) -> PackedDataset:
    """Tiles packed into a folder, with so many in a shard."""
    shards, content = [], ContentDigest()
    for number, start in enumerate(range(0, len(tiles), rows)):
        part = slice(start, start + rows)
        shard = TileShard(tiles.ids[part], tiles.images[part], pack_masks(tiles.masks[part]))
        content.add(shard.ids, tile_digests(shard))
        shards.append(write_shard(folder, number, shard))
    found = replace(dataset(), tiles=len(tiles), height=tiles.height, width=tiles.width, shards=tuple(shards))
    index = write_index(folder, TileIndex.of(tiles.ids, tiles.masks))
    digest = content.hexdigest(tiles.height, tiles.width, found.pixel_range)
    folder.put_record("manifest.json", replace(found, index=index, digest=digest))
    return PackedDataset.open(folder)


def fold_predictions(
    tiles: LabelledTiles, probabilities: NDArray[np.float16], *, rows: int = 1000
) -> Iterator[FoldPredictions]:
    """Predictions so many tiles at a time."""
    for start in range(0, len(tiles), rows):
        part = slice(start, start + rows)
        yield FoldPredictions(tiles.ids[part], tiles.masks[part], probabilities[part])


def write_whole_fold(
    home: Store,
    fold: int,
    held_out: LabelledTiles,
    model: nn.Module,
    probabilities: NDArray[np.float16],
    epochs: Sequence[EpochRecord],
    cycles: Sequence[int] = (1,),
    *,
    cost: PredictionCost | None = None,
    rows: int = 1000,
) -> FoldResult:
    """A finished fold; its predictions are written so many tiles at a time."""
    parts = fold_predictions(held_out, probabilities, rows=rows)
    shape = held_out.height, held_out.width
    written = write_predictions(home, parts, tiles=len(held_out), shape=shape, cycles=cycles)
    return write_fold(home, fold, model, written, epochs, cycles[-1], cost)
