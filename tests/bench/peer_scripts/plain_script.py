"""A training script as people write it: PIL, a Dataset, a DataLoader, Adam, float32; `torchrun` makes it DDP.

With `--resize 2 --size 256 --batch 8` and one process it is the loop of the blog of 2018: tiles enlarged from 101 to
202 pixels and padded to 256 by reflection, BCEWithLogits, Adam at a constant 1e-3, one fold after another. Only the
network's class is saltray's.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lines import Epochs
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from saltray.models.albunet import AlbuNet


class Tiles(Dataset):
    def __init__(self, folder: Path, names: list[str], size: int, resize: int) -> None:
        self.folder, self.names, self.size, self.resize = folder, names, size, resize

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.folder / "images" / self.names[at]).convert("RGB")
        mask = Image.fromarray((np.array(Image.open(self.folder / "masks" / self.names[at])) > 0).astype(np.uint8))
        if self.resize > 1:
            shape = (image.width * self.resize, image.height * self.resize)
            image, mask = image.resize(shape, Image.BILINEAR), mask.resize(shape, Image.NEAREST)
        above, left = (self.size - image.height) // 2, (self.size - image.width) // 2
        margins = ((above, self.size - image.height - above), (left, self.size - image.width - left))
        pixels = np.pad(np.array(image), (*margins, (0, 0)), mode="reflect")
        truth = np.pad(np.array(mask), margins, mode="reflect")
        inputs = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return inputs, torch.from_numpy(truth)[None].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="of all ranks together")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--resize", type=int, default=1)
    parser.add_argument("--tiles", type=int, help="take only the first so many")
    parser.add_argument("--thin", action="store_true")
    parser.add_argument("--no-validation", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    names = sorted(path.name for path in (args.data / "train/images").iterdir())[: args.tiles]
    for fold in args.folds:
        train_fold(args, fold, names, size, device)
    if size > 1:
        dist.destroy_process_group()


def train_fold(args: argparse.Namespace, fold: int, names: list[str], size: int, device: torch.device) -> None:
    folder = args.data / "train"
    held_out = names[fold::5]
    train = Tiles(folder, [name for name in names if name not in set(held_out)], args.size, args.resize)
    valid = Tiles(folder, held_out, args.size, args.resize)
    sampler = DistributedSampler(train) if size > 1 else None
    batch = args.batch // size
    loader = DataLoader(
        train, batch, shuffle=sampler is None, sampler=sampler, drop_last=True, num_workers=args.workers
    )
    net = (AlbuNet(num_filters=4, encoder_width=8) if args.thin else AlbuNet()).to(device)
    model = DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None) if size > 1 else net
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epochs = Epochs(len(loader) * batch)
    best = float("inf")
    for epoch in range(args.epochs):
        if sampler is not None:
            sampler.set_epoch(epoch)
        model.train()
        epochs.begin()
        for inputs, masks in loader:
            loss = criterion(model(inputs.to(device)), masks.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        epochs.end(fold=fold)
        if args.no_validation:
            continue
        model.eval()
        total = 0.0
        with torch.no_grad():
            for inputs, masks in DataLoader(valid, batch):
                total += criterion(model(inputs.to(device)), masks.to(device)).item() * len(inputs)
        if total < best:
            best = total
            weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if not args.no_validation:
        torch.save(weights, f"fold-{fold}.pt")


if __name__ == "__main__":
    main()
