"""The out-of-fold predictions of a run, read beside its tiles a part at a time: never those of all tiles at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.data.packed import PackedDataset
from saltray.data.tiles import LabelledTiles, TileShard
from saltray.errors import IntegrityError
from saltray.runs.layout import OOF, fold_folder
from saltray.runs.records import FoldResult
from saltray.storage.base import Store
from saltray.storage.tables import TableFile

PREDICTIONS = pa.schema([("id", pa.string()), ("probability", pa.binary())])
"""The columns of a fold's predictions: H * W float16 each, in C order."""
PART_BYTES = 8 * 2**20
"""Of the predictions of a part."""


def part_rows(height: int, width: int) -> int:
    """Tiles whose predictions are in memory at once."""
    return min(1024, max(1, PART_BYTES // (2 * height * width)))


class PredictedTiles(NamedTuple):
    """Some tiles, and what a model that has not seen them makes of them."""

    positions: NDArray[np.int64]
    """[N], among all tiles of the data set."""
    folds: NDArray[np.int64]
    """[N], the fold that held each of them out."""
    tiles: LabelledTiles
    probabilities: NDArray[np.float16]
    """[N, H, W], 0..1."""


class PredictionReader:
    """The predictions of some tiles in a file, in order.

    Args:
        file: with the columns `PREDICTIONS`.
        height: of the tiles.
        width: of the tiles.
    """

    def __init__(self, file: TableFile, height: int, width: int) -> None:
        self._file, self._shape = file, (height, width)
        self._parts = file.parts(part_rows(height, width))
        self._table = PREDICTIONS.empty_table()

    def take(self, ids: Sequence[str]) -> NDArray[np.float16]:
        """The next predictions, [N, H, W].

        Raises:
            IntegrityError: they are not of these tiles.
        """
        tables: list[pa.Table] = []
        while (lacking := len(ids) - sum(len(table) for table in tables)) > 0:
            if len(self._table) == 0:
                if (following := next(self._parts, None)) is None:
                    raise self._fault(f"has no prediction of {ids[-lacking]}")
                self._table = following
            tables.append(self._table.slice(0, lacking))
            self._table = self._table.slice(lacking)
        return self._decoded(pa.concat_tables(tables) if tables else PREDICTIONS.empty_table(), ids)

    def row(self, number: int, tile: str) -> NDArray[np.float16]:
        """The prediction in one row, [1, H, W].

        Raises:
            IntegrityError: it is not of this tile.
        """
        return self._decoded(self._file.row(number), [tile])

    def _decoded(self, table: pa.Table, ids: Sequence[str]) -> NDArray[np.float16]:
        for found, tile in zip(table["id"].to_pylist(), ids, strict=True):
            if found != tile:
                raise self._fault(f"is of other tiles ({found} in the place of {tile})")
        data = b"".join(table["probability"].to_pylist())
        height, width = self._shape
        if len(data) != 2 * len(ids) * height * width:
            raise self._fault(f"is of other tiles, which do not have {height}x{width} pixels")
        found = np.frombuffer(data, np.float16).reshape(len(ids), height, width)
        if not ((found >= 0) & (found <= 1)).all():
            raise self._fault("has a probability beyond 0..1")
        return found

    def _fault(self, what: str) -> IntegrityError:
        return IntegrityError(f"{self._file.where} {what}; train again under another run name")


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The tiles of some folds, and the files of their predictions."""

    data: PackedDataset
    fold_of: NDArray[np.int64]
    """[N], the fold of each tile of the data set."""
    files: dict[int, TableFile]
    """Of each fold that is read."""

    @property
    def pixels(self) -> int:
        """Of a tile."""
        return self.data.manifest.height * self.data.manifest.width

    def parts(self) -> Iterator[PredictedTiles]:
        """All tiles of these folds in the order of the data set, a part of a shard at a time.

        Raises:
            IntegrityError: the predictions are not those of these tiles, or something is damaged.
        """
        readers = {fold: self._reader(file) for fold, file in self.files.items()}
        rows = part_rows(self.data.manifest.height, self.data.manifest.width)
        for start, shard in zip(self.data.shard_starts, self.data.shards(), strict=True):
            inside = np.isin(self.fold_of[start : start + len(shard)], list(self.files))
            chosen = np.flatnonzero(inside)
            for first in range(0, len(chosen), rows):
                here = chosen[first : first + rows]
                tiles = _select(shard, here)
                folds = self.fold_of[start + here]
                probabilities = np.empty(tiles.images.shape, np.float16)
                for fold in np.unique(folds).tolist():
                    own = folds == fold
                    probabilities[own] = readers[fold].take([tiles.ids[at] for at in np.flatnonzero(own)])
                yield PredictedTiles(start + here, folds, tiles, probabilities)

    def some(self, positions: Sequence[int]) -> PredictedTiles:
        """A few tiles, in ascending order of their positions in the data set.

        Raises:
            IntegrityError: as `parts`.
        """
        ordered = np.sort(np.asarray(positions, np.int64))
        folds = self.fold_of[ordered]
        starts = np.array(self.data.shard_starts)
        number_of = np.searchsorted(starts, ordered, side="right") - 1
        found = [
            _select(self.data.read_shard(number), ordered[number_of == number] - starts[number])
            for number in np.unique(number_of).tolist()
        ]
        tiles = LabelledTiles(
            tuple(name for part in found for name in part.ids),
            np.concatenate([part.images for part in found]),
            np.concatenate([part.masks for part in found]),
        )
        probabilities = [
            self._reader(self.files[fold]).row(int((self.fold_of[:position] == fold).sum()), tile)
            for position, fold, tile in zip(ordered.tolist(), folds.tolist(), tiles.ids, strict=True)
        ]
        return PredictedTiles(ordered, folds, tiles, np.concatenate(probabilities))

    def _reader(self, file: TableFile) -> PredictionReader:
        return PredictionReader(file, self.data.manifest.height, self.data.manifest.width)


def _select(shard: TileShard, rows: NDArray[np.int64]) -> LabelledTiles:
    """Some tiles of a shard, with their masks unpacked."""
    ids = tuple(shard.ids[row] for row in rows.tolist())
    chosen = TileShard(ids, shard.images[rows], shard.mask_bits[rows])
    return LabelledTiles(ids, chosen.images, chosen.masks())


@contextmanager
def open_out_of_fold(
    home: Store, results: Sequence[FoldResult], data: PackedDataset, fold_of: NDArray[np.int64]
) -> Iterator[OutOfFold]:
    """The predictions of finished folds, as files of this machine until the end of the body.

    Args:
        home: the run's part of the store.
        results: of the folds.
        data: the tiles of the run.
        fold_of: [N], the fold of each of them.

    Raises:
        IntegrityError: the folds' predictions are not those of these tiles, or are damaged.
    """
    with ExitStack() as stack:
        files = {}
        for result in results:
            if result.tiles != (expected := int((fold_of == result.fold).sum())):
                raise IntegrityError(
                    f"fold {result.fold} has predictions of {result.tiles} tiles instead of {expected}; train again "
                    "under another run name"
                )
            key = f"{fold_folder(result.fold)}/{OOF}"
            opened = home.table_file(key, sha256=result.oof_sha256, schema=PREDICTIONS, rows=result.tiles)
            files[result.fold] = stack.enter_context(opened)
        yield OutOfFold(data, fold_of, files)
