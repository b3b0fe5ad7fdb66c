"""One of two ranks of a real process group: `python rank_main.py FOLDER RANK` trains each case of FOLDER/cases.json.

The results are saved as FOLDER/RANK.pt, by name; before that, rank 0 computes the same alone, for FOLDER/alone.pt.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from saltray.config import Config, PretrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.errors import DivergedError
from saltray.records import from_record
from saltray.training.engine import fit
from saltray.training.lr_range_test import lr_range_test
from saltray.training.metrics import Counts
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model
from saltray.training.tasks import Inpainting
from saltray.training.tile_tensors import TileTensors


class NanOnLastRank(nn.Module):
    """A network whose second training step gives NaN on the last rank."""

    def __init__(self, model: nn.Module, is_last: bool) -> None:
        super().__init__()
        self.model = model
        self.is_last = is_last
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        logits: Tensor = self.model(images)
        return logits * float("nan") if self.calls == 2 and self.training and self.is_last else logits


def train(name: str, config: Config, train: TileTensors, valid: TileTensors, group: ProcessGroup) -> dict[str, Any]:
    model: nn.Module = initial_model(config)
    if name == "nan":
        model = NanOnLastRank(model, group.rank == group.size - 1)
    state = FitState.create(config, group, model)
    task = Inpainting(config, PretrainConfig(hidden=0.5, patch=10)) if name == "inpainting" else None
    try:
        metrics = [asdict(epoch) for epoch in fit(state, train, valid if task is None else None, config, group, task)]
    except DivergedError as error:
        return {"error": str(error)}
    return {"metrics": metrics, "model": state.model.state_dict(), "ema": state.ema.state_dict()}


def compute(folder: Path, group: ProcessGroup) -> dict[str, Any]:
    arrays = np.load(folder / "tiles.npz")
    tiles = LabelledTiles(tuple(arrays["ids"].tolist()), arrays["images"], arrays["masks"])
    training = TileTensors.create(tiles.select(np.arange(13)), group.device)
    validation = TileTensors.create(tiles.select(np.arange(13, 20)), group.device)
    records = json.loads((folder / "cases.json").read_text())
    cases = {name: from_record(Config, record) for name, record in records.items()}
    results: dict[str, Any] = {name: train(name, config, training, validation, group) for name, config in cases.items()}
    config = cases["synchronised"]
    state = FitState.create(config, group)
    results["range test"] = asdict(lr_range_test(state, training, config, group, low=1e-5, high=1e-3, steps=5))
    results["sum"] = group.sum(torch.tensor([1.0, 10.0]) * (1 + group.rank))
    results["counts"] = Counts(torch.arange(13) + group.rank).all_reduce(group).sums
    return results


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        torch.save(compute(folder, ProcessGroup.single()), folder / "alone.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(compute(folder, ProcessGroup(rank, 2, torch.device("cpu"))), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
