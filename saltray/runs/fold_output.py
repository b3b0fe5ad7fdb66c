"""What a fold leaves in the store when it is finished."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from saltray.data.tiles import LabelledTiles
from saltray.errors import IntegrityError, NotFoundError
from saltray.runs.history import EpochRecord
from saltray.runs.layout import OOF, RESULT, WEIGHTS, snapshot_folder
from saltray.runs.records import FoldResult, PredictionCost, Snapshot
from saltray.storage.base import Store
from saltray.storage.files import no_scratch, scratch_folder
from saltray.training.metrics import Counts


def write_fold(
    home: Store,
    fold: int,
    held_out: LabelledTiles,
    model: nn.Module,
    probabilities: NDArray[np.float16],
    epochs: Sequence[EpochRecord],
    cycles: Sequence[int] = (1,),
    cost: PredictionCost | None = None,
) -> FoldResult:
    """Write weights and out-of-fold predictions, then the result that says the fold is finished.

    Args:
        home: the fold's part of the store.
        fold: its number.
        held_out: the tiles that it did not train on.
        model: the trained network.
        probabilities: [N, H, W] of the held-out tiles.
        epochs: its whole history.
        cycles: those whose ends enter the ensemble. The network is of the last one; `write_snapshot` wrote the others.
        cost: of the predictions of this network, where it was measured.

    Raises:
        NotFoundError, IntegrityError: an earlier snapshot is missing or corrupted.
    """
    *earlier, cycle = cycles
    weights = write_weights(home, model.state_dict())
    score = _counts(probabilities, held_out).score
    snapshots = [Snapshot(cycle=cycle, key=WEIGHTS, sha256=weights, score=score)]
    if earlier:
        found, others = zip(*(_read_snapshot(home, number, held_out) for number in earlier), strict=True)
        snapshots = [*found, *snapshots]
        probabilities = np.stack([*others, probabilities]).mean(axis=0, dtype=np.float32).astype(np.float16)
    counts = _counts(probabilities, held_out)
    table = pa.table({"id": list(held_out.ids), "probability": [row.tobytes() for row in probabilities]})
    result = FoldResult(
        fold=fold,
        tiles=len(held_out),
        score=counts.score,
        iou=counts.iou,
        dice=counts.dice,
        epochs=epochs[-1].epoch,
        seconds=sum(epoch.seconds for epoch in epochs),
        started=epochs[0].at - epochs[0].seconds,
        finished=time.time(),
        weights_sha256=weights,
        oof_sha256=home.put_table(OOF, table),
        snapshots=tuple(snapshots),
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


def write_snapshot(
    home: Store,
    fold: int,
    held_out: LabelledTiles,
    model: nn.Module,
    probabilities: NDArray[np.float16],
    epochs: Sequence[EpochRecord],
    cycle: int,
) -> None:
    """Write the same at the end of an earlier cycle; it is complete before a checkpoint can follow it.

    Args:
        home: the fold's part of the store.
        fold, held_out, model, probabilities, epochs: as for `write_fold`.
        cycle: its number, from 1.
    """
    write_fold(home.sub(snapshot_folder(cycle)), fold, held_out, model, probabilities, epochs, (cycle,))


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


def _read_snapshot(home: Store, cycle: int, held_out: LabelledTiles) -> tuple[Snapshot, NDArray[np.float16]]:
    """A snapshot, and its probabilities of the held-out tiles."""
    part = home.sub(snapshot_folder(cycle))
    result = part.get_record(RESULT, FoldResult)
    schema = pa.schema([("id", pa.string()), ("probability", pa.binary())])
    table = part.get_table(OOF, sha256=result.oof_sha256, schema=schema, rows=len(held_out))
    if tuple(table["id"].to_pylist()) != held_out.ids:
        raise IntegrityError(f"{part.uri}/{OOF} is of other tiles; train again under another run name")
    rows = np.frombuffer(b"".join(table["probability"].to_pylist()), dtype=np.float16)
    key = f"{snapshot_folder(cycle)}/{WEIGHTS}"
    snapshot = Snapshot(cycle=cycle, key=key, sha256=result.weights_sha256, score=result.score)
    return snapshot, rows.reshape(held_out.masks.shape)


def _counts(probabilities: NDArray[np.float16], held_out: LabelledTiles) -> Counts:
    """Of the predictions at a probability of 0.5."""
    return Counts.of(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(held_out.masks), 0.5)
