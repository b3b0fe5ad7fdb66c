"""The images of a data set's test part, for training without masks: checked all together, read a shard at a time."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saltray.data.decoding import decode_all
from saltray.data.images import decode_image
from saltray.data.packed import DatasetManifest
from saltray.data.packing import find_packed
from saltray.data.pixel_range import scale_as_before
from saltray.data.problems import Problem, raise_problems
from saltray.data.raw_layout import find_images
from saltray.data.source import Source
from saltray.data.tiles import Tiles
from saltray.errors import ConfigError, DataError
from saltray.storage.base import Entry, Store

SHARD_TILES = 4096
"""Images of a shard; the last may have fewer."""
_PREFIX = "test/"
"""Of the ids, so that none is that of a labelled tile."""


@dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """The test images of a raw data set, of the size and the range of its labelled tiles; none is in memory."""

    source: Source
    entries: dict[str, Entry]
    """The file of each image by its id, ascending."""
    like: DatasetManifest
    """Of the labelled tiles."""
    digest: str = field(init=False)
    """SHA-256 over ids, size and pixels."""

    def __post_init__(self) -> None:
        """Decode all of them.

        Raises:
            DataError: images have problems; `problems` lists them by file.
        """
        problems: list[Problem] = []
        found = hashlib.sha256(json.dumps([[*self.entries], self.like.height, self.like.width]).encode())
        for shard in self._read(problems):
            found.update(shard.images.data)
        raise_problems(self.source.uri, problems)
        object.__setattr__(self, "digest", found.hexdigest())

    def __len__(self) -> int:
        return len(self.entries)

    def shards(self) -> Iterator[Tiles]:
        """All of them, in the order of their ids.

        Raises:
            DataError: images have been damaged since they were checked.
        """
        problems: list[Problem] = []
        for shard in self._read(problems):
            raise_problems(self.source.uri, problems)
            yield shard

    def _read(self, problems: list[Problem]) -> Iterator[Tiles]:
        """The images that can be used, and a problem for each of the others."""
        every = list(self.entries.items())
        for start in range(0, len(every), SHARD_TILES):
            part = decode_all(self.source, dict(every[start : start + SHARD_TILES]), self._decode, problems)
            if part:
                yield Tiles(tuple(part), np.stack(list(part.values())))

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        pixels, scale = decode_image(data), self.like.pixel_range
        image = (scale_as_before(pixels) if scale is None else scale.scale(pixels)).pixels
        if image.shape != (self.like.height, self.like.width):
            height, width = image.shape
            raise DataError(
                f"{height}x{width} pixels, but the labelled tiles have {self.like.height}x{self.like.width}; crop or "
                "pad it"
            )
        return image


def find_unlabelled(uri: str, store: Store, like: DatasetManifest) -> UnlabelledImages:
    """The test images of a raw data set, all of which can be used.

    Args:
        uri: of the data set, as for `load_tiles`.
        store: where packed data sets are kept.
        like: the manifest of its labelled tiles.

    Raises:
        ConfigError: the data set is a packed one, which has no test images.
        DataError: there are none, or images have problems; `problems` lists them by file.
        StorageError: the source cannot be reached.
    """
    return UnlabelledImages(*list_unlabelled(uri, store), like)


def list_unlabelled(uri: str, store: Store) -> tuple[Source, dict[str, Entry]]:
    """A raw data set, and the files of its test images by their ids, ascending; none is read.

    Args, and raises:
        as `find_unlabelled`.
    """
    if find_packed(uri, store):
        raise ConfigError(
            f"{uri} is packed, with the labelled tiles alone, but pseudo_labels needs the test images, too; name the "
            "raw data set that it was made of as --data"
        )
    source = Source(uri)
    return source, {f"{_PREFIX}{tile}": entry for tile, entry in find_images(source, "test").items()}
