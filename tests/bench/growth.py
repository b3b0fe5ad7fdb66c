"""Memory and CPU time as data sets grow: `uv run python tests/bench/growth.py [--sizes 4000,40000] [--out FILE]`.

Tiles of 32x32 pixels are packed shard by shard, put into Ray's object store, and trained on by one fold alone and by
five at once, each a rank in a process of its own: `--steps` steps of a tiny network, then the out-of-fold predictions
of all held-out tiles, then the publishing of the run, all by the code that a run is made of. A million tiles through a
whole epoch would take hours on two cores, and the cost of a step does not depend on the number of steps. The network
that predicts is the identity, so that what is measured is the way of the tiles and not the network.

Memory is private memory (RssAnon) at its peak, beyond what the process had before it saw a tile (a rank: beyond the
peak of its first steps, on blank tiles); the object store's is what the driver has put there. It has a part that does
not depend on the tiles (libraries, buffers, the tiles in flight), so growth is told beside it: bytes a tile beyond the
smallest size of the table, "driver B" and so on. CPU time is in microseconds an image.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from operator import add, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from saltray.commands.prepare import Prepared, share
from saltray.commands.publish_run import publish_run
from saltray.config import ClusterConfig, Config, FoldConfig, ModelConfig, TrainConfig
from saltray.data.folds import assign_folds
from saltray.data.packed import (
    FORMAT,
    ContentDigest,
    DatasetManifest,
    PackedDataset,
    tile_digests,
    write_index,
    write_shard,
)
from saltray.data.pixel_range import PixelRange
from saltray.data.statistics import Tally, statistics_of
from saltray.data.tiles import TileIndex, TileShard, first_of_same, mask_digests, pack_masks
from saltray.distributed.cluster import ray_cluster
from saltray.runs.records import FoldResult
from saltray.runs.run import create_run
from saltray.storage.base import Store
from saltray.storage.uri import open_store

SIDE, SHARD, FOLDS, BATCH = 32, 4096, 5, 256
MEMORY = ("driver", "store", "rank", "publish")
COLUMNS = {
    "driver MiB": "while tiles are shared",
    "store MiB": "object store",
    "rank MiB": "largest rank",
    "publish MiB": "driver while publishing",
    "share us": "driver",
    "step us": "ranks",
    "predict us": "ranks",
    "publish us": "driver",
    "setup us": "ranks, before the first step of an epoch",
}


def config_of(folder: Path) -> Config:
    return Config(
        data="datasets/d",
        store=str(folder),
        folds=FoldConfig(count=FOLDS),
        model=ModelConfig(architecture="unet", encoder_width=1, in_channels=1, deep_supervision=False),
        train=TrainConfig(input_size=SIDE, batch_size=BATCH, epochs=1, precision="fp32"),
        cluster=ClusterConfig(gpus_per_worker=0),
    )


def write_tiles(folder: Store, count: int) -> None:
    """A packed data set of noise, whose masks are its bright pixels."""
    shards, content, ids, salt, digests, tallies = [], ContentDigest(), [], [], [], []
    for number, start in enumerate(range(0, count, SHARD)):
        draw = np.random.default_rng(number)
        images = draw.integers(0, 256, (min(SHARD, count - start), SIDE, SIDE), np.uint8)
        masks = (images > draw.integers(0, 400, (len(images), 1, 1))).astype(np.uint8)
        shard = TileShard(tuple(f"{start + at:08}" for at in range(len(images))), images, pack_masks(masks))
        tallies.append(Tally.of(shard))
        content.add(shard.ids, tile_digests(shard))
        shards.append(write_shard(folder, number, shard))
        ids += shard.ids
        salt.append(masks.sum(axis=(1, 2), dtype=np.int64))
        digests.append(mask_digests(shard.mask_bits))
    whole = np.concatenate(salt)
    index = TileIndex(tuple(ids), whole, first_of_same(np.concatenate(digests), whole), SIDE * SIDE)
    pixel_range = PixelRange(bits=8, maximum=255)
    manifest = DatasetManifest(
        format=FORMAT,
        name="d",
        source="noise",
        digest=content.hexdigest(SIDE, SIDE, pixel_range),
        tiles=count,
        height=SIDE,
        width=SIDE,
        statistics=statistics_of(index, reduce(add, tallies), SIDE, SIDE),
        pixel_range=pixel_range,
        shards=tuple(shards),
        index=write_index(folder, index),
    )
    folder.put_record("manifest.json", manifest)


def memory(pid: int | str, name: str) -> int:
    """Bytes, by a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Of the body: MiB of private memory at its peak beyond the start, and seconds of CPU time."""
    found: dict[str, float] = {}
    start, done, peak = memory("self", "RssAnon"), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], memory("self", "RssAnon"))

    thread = threading.Thread(target=watch)
    cpu = time.process_time()
    thread.start()
    yield found
    done.set()
    thread.join()
    found["peak"] = max(peak[0], memory("self", "RssAnon")) / 2**20
    found["mib"] = found["peak"] - start / 2**20
    found["cpu"] = time.process_time() - cpu


class Identity(nn.Module):
    """Predicts the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Any) -> Any:
        return images * self.weight


class Rank:
    """A rank of a fold, without Ray Train around it."""

    def __init__(self, job: Any) -> None:
        from saltray.training.engine import train_step
        from saltray.training.inference import predict_both_ways
        from saltray.training.process_group import ProcessGroup
        from saltray.training.state import FitState
        from saltray.training.tasks import Segmentation

        torch.set_num_threads(1)
        self.job, self.group = job, ProcessGroup.single()
        self.task, self.train_step = Segmentation(job.config), train_step
        # A first step, so that what every process allocates once is there before the measurement.
        with measured() as first:
            state = FitState.create(job.config, self.group)
            shape = (BATCH, SIDE, SIDE)
            images, masks = (torch.zeros(shape, dtype=torch.uint8) for _ in range(2))
            for _ in range(2):
                self._step(state, images, masks, torch.arange(BATCH))
            predict_both_ways(state.ema, images, input_size=SIDE, batch_size=BATCH, precision="fp32")
        self.first = first["peak"]

    def _step(self, state: Any, images: Any, masks: Any, keys: Any) -> None:
        inputs, targets = self.task.batch(images, masks, keys, 0)
        loss = partial(self.task.loss, epoch=0)
        train = state.model.train()
        self.train_step(train, state.optimizer, state.scaler, inputs, targets, self.job.config, loss, 1e-3)

    def run(self, steps: int) -> dict[str, float]:
        """Train and predict; MiB at the peak, and seconds of CPU time of both."""
        from saltray.distributed.held_out_predictor import HeldOutPredictor
        from saltray.distributed.job_setup import JobTiles, set_up_fold
        from saltray.runs.fold_output import write_fold
        from saltray.runs.history import History
        from saltray.training.epoch_metrics import EpochMetrics

        job, group = self.job, self.group
        with measured() as whole:
            with measured() as setup:
                fold = set_up_fold(job, job.folds[0], group, JobTiles.open(job, group))
                order = fold.train.epoch_order(0, 0, BATCH)
            with measured() as training:
                for images, masks, keys in fold.train.batches(order[:steps].flatten(), BATCH):
                    self._step(fold.state, images, masks, keys)
            with measured() as prediction:
                model, fold.state.ema = fold.state.ema, Identity()
                predictor = HeldOutPredictor(fold, job.config, group)
                written = predictor.write(job.home, (1,))
            with History(job.home) as history:
                history.append(EpochMetrics(epoch=1, loss=0.5, lr=0.1, seconds=1.0, images_per_second=1.0))
            assert written is not None
            self.result = write_fold(job.home, job.folds[0], model, written, history.epochs, 1, predictor.cost())
        return {
            "mib": whole["peak"] - self.first,
            "setup": setup["cpu"],
            "step": training["cpu"] / (min(steps, len(order)) * BATCH),
            "predict": prediction["cpu"] / len(fold.valid),
        }

    def finished(self) -> FoldResult:
        return self.result


def one(folder: Path, count: int, folds: int, steps: int) -> dict[str, float]:
    """The measurements of one size, with so many folds at once."""
    store, config = open_store(str(folder)), config_of(folder)
    if not store.exists("datasets/d/manifest.json"):
        write_tiles(store.sub("datasets/d"), count)
    home = store.sub("runs/r1")
    store.delete_prefix("runs")
    found: dict[str, float] = {"tiles": count, "folds": folds}
    with ray_cluster():
        with measured() as sharing:
            tiles = PackedDataset.open(store.sub("datasets/d"))
            prepared = Prepared(tiles, assign_folds(tiles.index, config.folds), None)
            template = share(prepared, config, home)
        options: dict[str, Any] = {"tiles": tiles.index, "fold_of": prepared.fold_of, "dataset": tiles.manifest}
        create_run(home, config, initial_weights=None, search_provenance=None, **options)
        jobs = [replace(template, name=f"fold-{fold}", folds=(fold,)) for fold in range(folds)]
        remote: Any = ray.remote(num_cpus=0)(Rank)
        ranks = [remote.remote(job) for job in jobs]
        done = ray.get([rank.run.remote(steps) for rank in ranks])
        results = ray.get([rank.finished.remote() for rank in ranks])
        found["store MiB"] = memory("self", "RssShmem") / 2**20
    found |= {"driver MiB": sharing["mib"], "share us": 1e6 * sharing["cpu"] / count}
    found["rank MiB"] = max(each["mib"] for each in done)
    for name in ("step", "predict"):
        found[f"{name} us"] = 1e6 * sum(each[name] for each in done) / folds
    found["setup us"] = 1e6 * sum(each["setup"] for each in done) / folds / count
    if folds == FOLDS:
        with measured() as publishing:
            publish_run(config, store, prepared, results, None, lambda event: None)
        found |= {"publish MiB": publishing["mib"], "publish us": 1e6 * publishing["cpu"] / count}
    return found


def growth(row: dict[str, float], smallest: dict[str, float]) -> dict[str, float]:
    """Bytes a tile of each kind of memory, beyond what the smallest size has."""
    tiles = row["tiles"] - smallest["tiles"]
    found = {name: 2**20 * (row[f"{name} MiB"] - smallest[f"{name} MiB"]) for name in MEMORY if f"{name} MiB" in row}
    return {f"{name} B": more / tiles for name, more in found.items()} if tiles else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="4000,40000,400000,1000000", help="numbers of tiles")
    parser.add_argument("--folds", default=f"{FOLDS},1", help="how many folds at once")
    parser.add_argument("--steps", type=int, default=8, help="steps of each fold")
    parser.add_argument("--scratch", help="where data sets are written and kept; unset: a temporary folder")
    parser.add_argument("--out", help="a JSON file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        folder, count, folds = asked.one
        print(json.dumps(one(Path(folder), int(count), int(folds), asked.steps)))
        return
    names = [*COLUMNS, *(f"{name} B" for name in MEMORY)]
    print("| tiles | folds |", " | ".join(names), "|\n|" + "---|" * (len(names) + 2), flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        for count in map(int, asked.sizes.split(",")):
            for folds in map(int, asked.folds.split(",")):
                folder = Path(asked.scratch or scratch, str(count))
                command = [
                    sys.executable,
                    __file__,
                    "--steps",
                    str(asked.steps),
                    "--one",
                    folder,
                    str(count),
                    str(folds),
                ]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
                rows.append(row := json.loads(text.splitlines()[-1]))
                row |= growth(row, min((each for each in rows if each["folds"] == folds), key=itemgetter("tiles")))
                cells = [f"{row[name]:,.1f}" if name in row else "" for name in names]
                print(f"| {count:,} | {folds} |", " | ".join(cells), "|", flush=True)
                if asked.out:
                    Path(asked.out).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
