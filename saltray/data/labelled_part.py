"""Decode all labelled tiles of a raw data set, slice by slice, and keep what the checks need of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from saltray.data.decoding import Decoded, Slice, Use, decode_slice
from saltray.data.pixel_range import GreyValues, PixelRange
from saltray.data.problems import Problem
from saltray.data.raw_layout import RawLayout
from saltray.data.source import Source
from saltray.data.statistics import Tally
from saltray.data.tables import KnownMask
from saltray.data.tiles import TileIndex, first_of_same, shard_tiles
from saltray.data.workers import Mapper
from saltray.progress import Observer, TilesImported

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """What is known of all labelled tiles, in the order of their ids; the arrays are those of `Decoded`."""

    layout: RawLayout
    ids: tuple[str, ...]
    images: NDArray[np.int64]
    masks: NDArray[np.int64]
    mask_digests: NDArray[np.uint64]

    def index(self) -> TileIndex:
        salt = self.masks[:, 3].copy()
        return TileIndex(self.ids, salt, first_of_same(self.mask_digests, salt), int(self.images[0, :2].prod()))

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and size of each image that could be decoded."""
        for row in np.flatnonzero(self.images[:, 2]).tolist():
            yield self.layout.images[self.ids[row]].key, tuple(self.images[row, :2].tolist())


@dataclass(frozen=True)
class LabelledReader(Generic[T]):
    """Decodes all labelled tiles, slice by slice."""

    source: Source
    layout: RawLayout
    use: Use[T]
    mapper: Mapper
    observer: Observer | None

    def read(
        self, first: GreyValues | None, scale: PixelRange | None, problems: list[Problem]
    ) -> tuple[LabelledPart, list[tuple[Tally, T]]]:
        """All tiles, and what was made of their pixels; whatever is wrong with a file is added to `problems`.

        Args:
            first: an image, whose size is likely that of all.
            scale: the range of the images; None to look at them alone.
            problems: receives them.
        """
        ids = tuple(sorted(self.layout.images.keys() | self.layout.masks.keys()))
        decoded: list[Decoded[T]] = []
        done = 0
        for found in self.mapper(
            partial(decode_slice, self.source, self.use), self._slices(ids, first, scale, problems)
        ):
            problems += found.problems
            decoded.append(found)
            done += len(found.images)
            if self.observer is not None and done < len(ids):
                self.observer(TilesImported(done, len(ids)))
        images, masks, digests = (
            np.concatenate([getattr(found, name) for found in decoded] or [np.zeros((0, 4), np.int64)])
            for name in ("images", "masks", "mask_digests")
        )
        used = [found.used for found in decoded if found.used is not None]
        return LabelledPart(self.layout, ids, images, masks, digests), used

    def _slices(
        self, ids: tuple[str, ...], first: GreyValues | None, scale: PixelRange | None, problems: list[Problem]
    ) -> Iterator[Slice]:
        pixels = 1 if first is None else first.size
        step = shard_tiles(pixels)
        for number, start in enumerate(range(0, len(ids), step)):
            chosen = ids[start : start + step]
            images, masks = (
                {tile: of[tile] for tile in chosen if tile in of} for of in (self.layout.images, self.layout.masks)
            )
            # After a problem the others are only looked for.
            yield Slice(number, chosen, images, masks, None if problems else scale)


class MasksById(Mapping[str, KnownMask | None]):
    """The masks by id, without an object for each."""

    def __init__(self, tiles: LabelledPart) -> None:
        self._tiles = tiles
        self._row_of = {tile: row for row, tile in enumerate(tiles.ids) if tile in tiles.layout.masks}

    def __getitem__(self, tile: str) -> KnownMask | None:
        row = self._row_of[tile]
        height, width, bits, _ = self._tiles.masks[row].tolist()
        return KnownMask(height, width, tuple(self._tiles.mask_digests[row].tolist())) if bits else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)
