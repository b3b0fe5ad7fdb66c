"""saltray's own loop, `training.engine.fit`, without Ray: alone, or on the ranks that `torchrun` starts."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lines import Epochs

from saltray.config import ClusterConfig, Config, TrainConfig
from saltray.data.raw import read_tiles
from saltray.recipes import PLAIN_DECODER
from saltray.training.engine import fit
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

NEVER = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="of all ranks together")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--resize", type=int, default=1)
    parser.add_argument("--tiles", type=int, help="take only the first so many")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--thin", action="store_true")
    parser.add_argument("--unet", action="store_true", help="segmentation_models_pytorch's Unet(resnet34)")
    parser.add_argument("--validate", action="store_true", help="every epoch; else only after the last")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    config = Config(
        data=str(args.data),
        model=replace(PLAIN_DECODER, num_filters=4, encoder_width=8) if args.thin else PLAIN_DECODER,
        train=TrainConfig(
            epochs=args.epochs,
            batch_size=args.batch,
            input_size=args.size,
            resize=args.resize,
            precision=args.precision,
            eval_every=1 if args.validate else NEVER,
        ),
        cluster=ClusterConfig(workers_per_fold=size),
    )
    group = ProcessGroup(rank=rank, size=size, device=device)
    tiles = read_tiles(str(args.data))
    count = args.tiles or len(tiles)
    fold_of = np.arange(len(tiles)) % 5
    chosen = np.arange(len(tiles)) < count
    train = TileTensors.create(tiles.select(chosen & (fold_of != 0)), device)
    valid = TileTensors.create(tiles.select(chosen & (fold_of == 0)), device)
    state = FitState.create(config, group, unet() if args.unet else None)
    epochs = Epochs(train.steps(args.batch) * args.batch // size)
    for metrics in fit(state, train, valid, config, group):
        epochs.end(seconds=metrics.seconds, rate=metrics.images_per_second)
    if size > 1:
        dist.destroy_process_group()


def unet() -> torch.nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1)


if __name__ == "__main__":
    main()
