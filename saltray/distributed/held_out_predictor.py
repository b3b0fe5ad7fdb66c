"""Predict the tiles that a fold holds out, in parts of bounded size, by all ranks of its job."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from saltray.config import Config
from saltray.distributed.job_setup import Fold
from saltray.runs.fold_output import FoldPredictions, WrittenPredictions, write_predictions
from saltray.runs.out_of_fold import part_rows
from saltray.runs.records import PredictionCost
from saltray.storage.base import Store
from saltray.training.inference import predict_both_ways
from saltray.training.metrics import Counts, TileCounts
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_pool import ids_of


class HeldOutPredictor:
    """Predicts the tiles that a fold holds out, a part at a time, of which each rank predicts every size-th tile."""

    def __init__(self, fold: Fold, config: Config, group: ProcessGroup) -> None:
        self.fold, self.config, self.group = fold, config, group
        self._seconds, self._tiles, self._without_tta = 0.0, 0, Counts.zero(group.device)
        self._gains = torch.zeros(21, dtype=torch.int64, device=group.device)

    def write(self, home: Store, cycles: Sequence[int]) -> WrittenPredictions | None:
        """Predict and write all of them; every rank calls this, and rank 0 writes."""
        valid = self.fold.valid
        if self.group.rank == 0:
            shape = valid.height, valid.width
            return write_predictions(home, self._parts(), tiles=len(valid), shape=shape, cycles=cycles)
        for _ in self._parts():
            pass
        return None

    def cost(self) -> PredictionCost:
        """What `write` took; every rank calls this after it."""
        return PredictionCost(
            score_without_tta=self._without_tta.all_reduce(self.group).score,
            seconds=self._seconds / max(1, self._tiles),
            device=_device_name(self.group.device),
            gains=tuple(self.group.sum(self._gains).tolist()),
        )

    def _parts(self) -> Iterator[FoldPredictions]:
        """Each part, on rank 0; on the others nothing."""
        valid, group = self.fold.valid, self.group
        whole = self.config.train.batch_size * group.size  # so that all batches but the last are full
        rows = whole * max(1, part_rows(valid.height, valid.width) // whole)
        for index in torch.split(torch.arange(len(valid), device=group.device), rows):
            own = self._predict(index[group.rank :: group.size])
            parts: list[Any] | None = [own]
            if group.size > 1:
                parts = [None] * group.size if group.rank == 0 else None
                torch.distributed.gather_object(own, parts)
            if parts is not None:
                probabilities = np.empty((len(index), valid.height, valid.width), np.float16)
                for rank, predicted in enumerate(parts):
                    probabilities[rank :: group.size] = predicted
                ids = ids_of(self.fold.tiles.parts, valid.positions[index].cpu().numpy())
                yield FoldPredictions(ids, valid.batch(index).masks.cpu().numpy(), probabilities)

    def _predict(self, index: Tensor) -> NDArray[np.float16]:
        """Probabilities of some tiles, [N, H, W]."""
        valid, settings = self.fold.valid, self.config.train
        if len(index) == 0:
            return np.empty((0, valid.height, valid.width), np.float16)
        started = time.perf_counter()
        images, masks, _ = valid.batch(index)
        predicted, without_tta = predict_both_ways(
            self.fold.state.ema,
            images,
            input_size=settings.input_size,
            resize=settings.resize,
            batch_size=settings.batch_size,
            precision=settings.precision,
        )
        self._seconds += time.perf_counter() - started
        self._tiles += len(index)
        self._without_tta += Counts.of(without_tta.to(self.group.device), masks, 0.5)
        scores = [TileCounts.of(part, masks, [0.5]).tenths[:, 0] for part in (predicted.half(), without_tta)]
        self._gains += torch.from_numpy(np.bincount(scores[0] - scores[1] + 10, minlength=21)).to(self.group.device)
        return predicted.numpy().astype(np.float16)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
