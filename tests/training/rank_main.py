"""One of two ranks of a real process group: `python rank_main.py FOLDER RANK` trains each case of FOLDER/cases.json.

What came of it goes to FOLDER/RANK.pt, by the case's name; rank 0 first trains each alone, for FOLDER/alone.pt.
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

from saltray.config import Config, from_dict
from saltray.data.tiles import Tiles
from saltray.errors import DivergedError
from saltray.training.engine import fit
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model
from saltray.training.tile_tensors import TileTensors


class Poisoned(nn.Module):
    """A network whose second training step gives NaN on the last rank."""

    def __init__(self, model: nn.Module, last: bool) -> None:
        super().__init__()
        self.model = model
        self.last = last
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        logits: Tensor = self.model(images)
        return logits * float("nan") if self.calls == 2 and self.training and self.last else logits


def train(
    config: Config, train: TileTensors, valid: TileTensors, ranks: ProcessGroup, poisoned: bool
) -> dict[str, Any]:
    model = initial_model(config)
    if poisoned:
        model = Poisoned(model, ranks.rank == ranks.size - 1)
    state = FitState.create(config, ranks, model)
    try:
        metrics = [asdict(epoch) for epoch in fit(state, train, valid, config, ranks)]
    except DivergedError as error:
        return {"error": str(error)}
    return {"metrics": metrics, "model": state.model.state_dict(), "ema": state.ema.state_dict()}


def train_all(folder: Path, ranks: ProcessGroup) -> dict[str, Any]:
    arrays = np.load(folder / "tiles.npz")
    tiles = Tiles(tuple(arrays["ids"].tolist()), arrays["images"], arrays["masks"])
    parts = [TileTensors.create(tiles.select(part), ranks.device) for part in (np.arange(13), np.arange(13, 20))]
    cases = json.loads((folder / "cases.json").read_text())
    return {
        name: train(from_dict(case["config"]), parts[0], parts[1], ranks, case["poisoned"])
        for name, case in cases.items()
    }


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        torch.save(train_all(folder, ProcessGroup.single()), folder / "alone.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(train_all(folder, ProcessGroup(rank, 2, torch.device("cpu"))), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
