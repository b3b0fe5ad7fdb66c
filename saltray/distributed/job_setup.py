"""What a rank of a job has before its first step: its process group, the tiles, each fold and its initial state."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray

from saltray.config import Config
from saltray.distributed.jobs import Job
from saltray.distributed.pseudo_tiles import pseudo_tiles
from saltray.training.engine import fit
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.host_memory import keep_freed_memory
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model
from saltray.training.tile_pool import Cache, TilePart, TilePool, choose_cache, open_pool
from saltray.training.tile_tensors import TileTensors


@dataclass(frozen=True, eq=False)
class JobTiles:
    """All tiles of a job on one rank."""

    parts: Sequence[TilePart]
    """In the memory that all ranks of a node share."""
    pool: TilePool
    note: str | None
    """Where they are kept, if that was left to the rank."""
    pseudo: Mapping[int, NDArray[np.int64]]
    """For each fold of the job, the positions of the test tiles that it alone trains on."""

    @classmethod
    def open(cls, job: Job, group: ProcessGroup) -> Self:
        """Copy them to the rank's GPU, or leave them where they are."""
        parts = ray.get(list(job.tiles))
        count, pseudo = sum(map(len, parts)), {}
        for fold in job.folds:
            if (tiles := pseudo_tiles(job, fold, group)) is not None:
                parts.append(TilePart.of(tiles))
                pseudo[fold] = np.arange(count, count + len(tiles))
                count += len(tiles)
        cache, note = job.config.cluster.cache, None
        if cache is None:
            cache, note = _cache_by_size(job.config, parts, group.device)
        return cls(parts, open_pool(parts, group.device, cache), note, pseudo)

    def those(self, chosen: NDArray[np.bool_], others: NDArray[np.int64] | None = None) -> TileTensors:
        """The tiles of which [N] is true, and those at other positions."""
        positions = np.flatnonzero(chosen) if others is None else np.concatenate([np.flatnonzero(chosen), others])
        return TileTensors(self.pool, torch.from_numpy(positions).to(self.pool.keys.device))


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold on one rank."""

    tiles: JobTiles
    train: TileTensors
    valid: TileTensors
    state: FitState

    def fit(self, config: Config, group: ProcessGroup) -> Iterator[EpochMetrics]:
        """Train it; see `training.engine.fit`."""
        return fit(self.state, self.train, self.valid, config, group)


def process_group_of() -> ProcessGroup:
    """This rank, as Ray Train started it."""
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # More threads than the rank's own share make ranks on shared cores wait for each other.
        assigned: Mapping[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
        keep_freed_memory()
    return ProcessGroup(rank=context.get_world_rank(), size=context.get_world_size(), device=device)


def set_up_fold(job: Job, fold: int, group: ProcessGroup, tiles: JobTiles) -> Fold:
    """The tiles of one fold on this rank, and the state before the first step."""
    held_out = ray.get(job.fold_of) == fold
    return Fold(
        tiles, tiles.those(~held_out, tiles.pseudo.get(fold)), tiles.those(held_out), initial_state(job, fold, group)
    )


def initial_state(job: Job, fold: int, group: ProcessGroup) -> FitState:
    """The state before the first step, from the fold's initial weights where some were given."""
    model = initial_model(job.config)
    if job.initial_weights:
        weights = ray.get(job.initial_weights[fold])
        model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return FitState.create(job.config, group, model)


def _cache_by_size(config: Config, parts: Sequence[TilePart], device: torch.device) -> tuple[Cache, str | None]:
    """Where a rank keeps the tiles, and a note of it where there was a choice."""
    if device.type != "cuda":
        return "host", None
    needed = sum(len(part) * part.bytes_per_tile for part in parts)
    free, total = torch.cuda.mem_get_info(device)
    cache = choose_cache(needed, free, total, config.cluster.gpus_per_worker or 1)
    consequence = "on the GPU" if cache == "device" else "on the host: each batch is copied while the last one computes"
    return cache, f"keeps the tiles ({needed / 2**20:,.0f} MiB, of the GPU {free / 2**20:,.0f} are free) {consequence}"
