"""Every image of a data set, for what needs no masks."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from saltray.data.packed import PackedDataset
from saltray.data.packing import find_packed, refuse_unknown
from saltray.data.raw import read_all_images
from saltray.data.tiles import Tiles
from saltray.storage.base import Store


@dataclass(frozen=True, eq=False)
class AllImages:
    """Every image of a data set, with or without a mask."""

    tiles: Tiles
    digest: str
    """SHA-256 over ids, size and pixels."""
    notes: tuple[str, ...]
    """What else there may be, a line each."""


def load_all_images(uri: str, store: Store) -> AllImages:
    """The images of a data set's training and test parts, for what needs no masks; nothing is written.

    Args:
        uri: as for `open_packed`; a packed data set has the labelled tiles alone.
        store: where packed data sets are kept.

    Raises:
        DataError: images of a raw data set have problems, which `problems` lists by file, or there are none.
        IntegrityError: a packed data set is damaged.
        StorageError: the source or the store cannot be reached.
    """
    notes: tuple[str, ...] = ()
    if folder := find_packed(uri, store):
        packed = PackedDataset.open(folder)
        tiles = Tiles(packed.ids, np.concatenate([shard.images for shard in packed.shards()]))
        source = packed.manifest.source
        notes = (f"packed, with labelled tiles alone; to use its test images, too, name the raw one ({source})",)
    else:
        refuse_unknown(uri, store)
        tiles = read_all_images(uri)
    sha256 = hashlib.sha256(json.dumps([tiles.ids, *tiles.images.shape[1:]]).encode())
    sha256.update(np.ascontiguousarray(tiles.images).data)
    return AllImages(tiles, sha256.hexdigest(), notes)
