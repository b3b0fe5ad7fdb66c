"""Throughput of training steps: `uv run python tests/bench/step.py [--seconds 100]` prints a Markdown table.

Full-width AlbuNet at 128x128, on the GPU if there is one: our loop, a plain loop after the 2018 script (float32, NCHW,
BCE, Adam, batches prepared on the host), and the upper bound set by the machine's matrix products at the network's
19.88 GFLOP per image. The three are measured in turn, so other load on the machine slows all of them: compare ratios.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from saltray.config import Config, TrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.models.build import build_model
from saltray.recipes import PLAIN_DECODER
from saltray.training.engine import fit
from saltray.training.precision import resolve_precision
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tile_tensors import TileTensors

GFLOP_PER_IMAGE = 19.88
SIZE = 128
FOREVER = 10_000


def noise(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and masks of 101x101."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (count, 101, 101), np.uint8), draw.integers(0, 2, (count, 101, 101), np.uint8)


def our_loop(device: torch.device, batch: int, steps: int) -> Iterator[float]:
    """Images per second in each epoch of `fit`."""
    images, masks = noise(batch * steps)
    train = TrainConfig(epochs=FOREVER, eval_every=FOREVER, batch_size=batch, input_size=SIZE)
    config = Config(data="unused", model=PLAIN_DECODER, train=train)
    group = ProcessGroup.single(device)
    tiles = TileTensors.create(LabelledTiles(tuple(f"{i:06}" for i in range(len(images))), images, masks), device)
    for metrics in fit(FitState.create(config, group), tiles, tiles, config, group):
        yield metrics.images_per_second


def plain_loop(device: torch.device, batch: int, steps: int) -> Iterator[float]:
    """Images per second of `steps` steps of the plain loop."""
    images, masks = noise(batch * steps)
    model = build_model(PLAIN_DECODER).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    draw = np.random.default_rng(0)
    margins = ((0, 0), (13, 14), (13, 14))
    while True:
        started = time.perf_counter()
        for index in draw.permutation(len(images)).reshape(steps, batch):
            inputs = np.pad(images[index], margins, mode="reflect")[:, None].astype(np.float32) / 255
            truth = np.pad(masks[index], margins, mode="reflect")[:, None].astype(np.float32)
            logits = model(torch.from_numpy(inputs).to(device))
            loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        yield batch * steps / (time.perf_counter() - started)


def products(device: torch.device, kind: torch.dtype) -> Iterator[float]:
    """Images per second if a step ran at the speed of a square matrix product."""
    n, repeats = (8192, 20) if device.type == "cuda" else (2048, 2)
    a, b = (torch.rand(n, n, device=device, dtype=kind) for _ in range(2))
    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while True:
        synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize()
        yield repeats * 2 * n**3 / 1e9 / GFLOP_PER_IMAGE / (time.perf_counter() - started)


def compare(device: torch.device, batch: int, steps: int, seconds: float) -> list[tuple[float, ...]]:
    """Images per second in each round: our loop, plain loop, products in float32 and, if supported, in bfloat16."""
    contenders = [our_loop(device, batch, steps), plain_loop(device, batch, steps), products(device, torch.float32)]
    if resolve_precision("bf16", device) == "bf16":
        contenders.append(products(device, torch.bfloat16))
    for contender in contenders:
        next(contender)  # warm-up
    rounds: list[tuple[float, ...]] = []
    end = time.perf_counter() + seconds
    while not rounds or time.perf_counter() < end:
        rounds.append(tuple(next(contender) for contender in contenders))
    return rounds


def row(batch: int, precision: str, rounds: list[tuple[float, ...]]) -> str:
    ours, plain, *ceilings = (median(column) for column in zip(*rounds, strict=True))
    gain = median(r[0] / r[1] for r in rounds)
    shares = [median(r[0] / r[at] for r in rounds) for at in range(2, 2 + len(ceilings))]
    cells = [f"{ceiling:.1f} ({share:.0%})" for ceiling, share in zip(ceilings, shares, strict=True)]
    fp32, bf16 = [*cells, "unsupported"][:2]
    return f"| {batch} | {precision} | {ours:.1f} | {plain:.1f} | {gain:.2f} | {fp32} | {bf16} | {len(rounds)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="measuring time over all batch sizes")
    seconds = parser.parse_args().seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plans = [(256, 20), (16, 50)] if device.type == "cuda" else [(16, 1)]
    precision = resolve_precision("bf16", device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"AlbuNet, {SIZE}x{SIZE}, {where}, torch {torch.__version__}; images/s, medians\n")
    print("| batch | precision | ours | plain loop | ours / plain | fp32 bound (ours) | bf16 bound (ours) | rounds |")
    print("|---|---|---|---|---|---|---|---|")
    for batch, steps in plans:
        print(row(batch, precision, compare(device, batch, steps, seconds / len(plans))), flush=True)


if __name__ == "__main__":
    main()
