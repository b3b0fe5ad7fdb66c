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
from saltray.runs.history import EpochRecord
from saltray.runs.layout import OOF, RESULT, WEIGHTS
from saltray.runs.records import FoldResult
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
) -> FoldResult:
    """Write weights and out-of-fold predictions, then the result that says the fold is finished.

    Args:
        home: the fold's part of the store.
        fold: its number.
        held_out: the tiles that it did not train on.
        model: the trained network.
        probabilities: [N, H, W] of the held-out tiles.
        epochs: its whole history.
    """
    counts = Counts.of(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(held_out.masks), 0.5)
    weights = write_weights(home, model.state_dict())
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
