"""What a fold leaves in the store when it is finished."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from saltray.errors import IntegrityError, NotFoundError
from saltray.runs.history import EpochRecord
from saltray.runs.layout import OOF, RESULT, WEIGHTS, snapshot_folder
from saltray.runs.out_of_fold import PREDICTIONS, PredictionReader
from saltray.runs.records import FoldResult, PredictionCost, Snapshot
from saltray.storage.base import Store
from saltray.storage.files import no_scratch, scratch_folder
from saltray.training.metrics import Counts


class FoldPredictions(NamedTuple):
    """Some of the tiles that a fold holds out, in the order of their ids, and its predictions of them."""

    ids: Sequence[str]
    masks: NDArray[np.uint8]
    """[N, H, W] of 0 and 1."""
    probabilities: NDArray[np.float16]
    """[N, H, W]"""


@dataclass(frozen=True, eq=False)
class WrittenPredictions:
    """A fold's predictions in the store."""

    sha256: str
    counts: Counts
    """Of the predictions, at a probability of 0.5."""
    own: Counts
    """Of the last model alone."""
    earlier: tuple[Snapshot, ...]
    """The models of earlier cycles, with whose predictions they were averaged."""


def write_predictions(
    home: Store, parts: Iterable[FoldPredictions], *, tiles: int, shape: tuple[int, int], cycles: Sequence[int] = (1,)
) -> WrittenPredictions:
    """Write out-of-fold predictions part by part; where there are several cycles, the mean of their models'.

    Args:
        home: the fold's part of the store.
        parts: the predictions of the last model, of all tiles that the fold holds out.
        tiles: their number.
        shape: height and width of a tile.
        cycles: those whose ends enter the ensemble; all but the last have left theirs in their `snapshot_folder`.

    Raises:
        NotFoundError, IntegrityError: an earlier snapshot is missing or corrupted.
    """
    own, counts = (Counts.zero(torch.device("cpu")) for _ in range(2))
    with ExitStack() as stack:
        earlier = [stack.enter_context(_snapshot(home, cycle, tiles, shape)) for cycle in cycles[:-1]]

        def tables() -> Iterator[pa.Table]:
            nonlocal own, counts
            for ids, masks, alone in parts:
                own += _counts(alone, masks)
                probabilities = alone
                if earlier:
                    others = [reader.take(ids) for _, reader in earlier]
                    probabilities = np.stack([*others, alone]).mean(axis=0, dtype=np.float32).astype(np.float16)
                counts += _counts(probabilities, masks)
                rows = [row.tobytes() for row in probabilities]
                yield pa.table({"id": list(ids), "probability": rows}, schema=PREDICTIONS)

        sha256 = home.put_tables(OOF, PREDICTIONS, tables())
    assert own.tiles == tiles
    return WrittenPredictions(sha256, counts, own, tuple(snapshot for snapshot, _ in earlier))


def write_fold(
    home: Store,
    fold: int,
    model: nn.Module,
    predictions: WrittenPredictions,
    epochs: Sequence[EpochRecord],
    cycle: int = 1,
    cost: PredictionCost | None = None,
) -> FoldResult:
    """Write weights, after the predictions, and then the result that says the fold is finished.

    Args:
        home: the fold's part of the store.
        fold: its number.
        model: the trained network.
        predictions: of `write_predictions`.
        epochs: its whole history.
        cycle: the last one, whose end the network is of.
        cost: of the predictions of this network, where it was measured.
    """
    weights = write_weights(home, model.state_dict())
    counts = predictions.counts
    last = Snapshot(cycle=cycle, key=WEIGHTS, sha256=weights, score=predictions.own.score)
    result = FoldResult(
        fold=fold,
        tiles=counts.tiles,
        score=counts.score,
        iou=counts.iou,
        dice=counts.dice,
        epochs=epochs[-1].epoch,
        seconds=sum(epoch.seconds for epoch in epochs),
        started=epochs[0].at - epochs[0].seconds,
        finished=time.time(),
        weights_sha256=weights,
        oof_sha256=predictions.sha256,
        snapshots=(*predictions.earlier, last),
        cost=cost,
    )
    home.put_record(RESULT, result)
    return result


def write_weights(home: Store, state: Mapping[str, Tensor]) -> str:
    """Write a network's state dict as `model.safetensors`; returns the file's SHA-256, in hex."""
    with scratch_folder() as folder:
        path = folder / WEIGHTS
        try:
            save_file({key: value.contiguous().cpu() for key, value in state.items()}, path)
        except (OSError, SafetensorError) as error:
            raise no_scratch(error) from error
        return home.put_file(WEIGHTS, path)


def snapshot_fault(home: Store, cycle: int) -> str | None:
    """Why a fold's snapshot cannot enter the ensemble; None where it can."""
    part = home.sub(snapshot_folder(cycle))
    try:
        result = part.get_record(RESULT, FoldResult)
        with scratch_folder() as folder:
            part.get_file(WEIGHTS, folder / WEIGHTS, sha256=result.weights_sha256)
            part.get_file(OOF, folder / OOF, sha256=result.oof_sha256)
    except (NotFoundError, IntegrityError) as error:
        return str(error)
    return None


@contextmanager
def _snapshot(
    home: Store, cycle: int, tiles: int, shape: tuple[int, int]
) -> Iterator[tuple[Snapshot, PredictionReader]]:
    """A snapshot, and its predictions of the tiles that the fold holds out."""
    part = home.sub(snapshot_folder(cycle))
    result = part.get_record(RESULT, FoldResult)
    key = f"{snapshot_folder(cycle)}/{WEIGHTS}"
    with part.table_file(OOF, sha256=result.oof_sha256, schema=PREDICTIONS, rows=tiles) as file:
        snapshot = Snapshot(cycle=cycle, key=key, sha256=result.weights_sha256, score=result.score)
        yield snapshot, PredictionReader(file, *shape)


def _counts(probabilities: NDArray[np.float16], masks: NDArray[np.uint8]) -> Counts:
    """Of the predictions at a probability of 0.5."""
    return Counts.of(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(masks), 0.5)
