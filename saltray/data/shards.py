"""Writing packed data sets: shard by shard, in any process; then the index and the manifest, which makes them one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saltray.data.layout import MANIFEST
from saltray.data.packed import FORMAT, ContentDigest, DatasetManifest, Shard, tile_digests, write_index, write_shard
from saltray.data.pixel_range import PixelRange
from saltray.data.statistics import Statistics
from saltray.data.tiles import TileIndex, TileShard
from saltray.storage.base import Store


class Written(NamedTuple):
    """A shard that is in the store."""

    shard: Shard
    digests: bytes
    """`tile_digests` of its tiles."""


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of a data set into its folder."""

    folder: Store

    def __call__(self, number: int, shard: TileShard) -> Written:
        """Write a shard."""
        return Written(write_shard(self.folder, number, shard), tile_digests(shard))


def write_manifest(
    folder: Store,
    shards: Sequence[Written],
    *,
    name: str,
    source: str,
    index: TileIndex,
    statistics: Statistics,
    pixel_range: PixelRange,
    notes: tuple[str, ...] = (),
) -> DatasetManifest:
    """Write the index of a data set whose shards are written, then its manifest.

    Args:
        folder: of the data set.
        shards: all of them, in order.
        name: of the data set.
        source: where its tiles are from.
        index: of all tiles.
        statistics: of all tiles.
        pixel_range: of their files.
        notes: for the user.
    """
    content = ContentDigest()
    start = 0
    for shard, digests in shards:
        content.add(index.ids[start : start + shard.tiles], digests)
        start += shard.tiles
    manifest = DatasetManifest(
        format=FORMAT,
        name=name,
        source=source,
        digest=content.hexdigest(statistics.height, statistics.width, pixel_range),
        tiles=len(index),
        height=statistics.height,
        width=statistics.width,
        statistics=statistics,
        pixel_range=pixel_range,
        notes=notes,
        shards=tuple(shard for shard, _ in shards),
        index=write_index(folder, index),
    )
    folder.put_record(MANIFEST, manifest)
    return manifest
