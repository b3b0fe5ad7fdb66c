"""Time of the loss's terms: `uv run python tests/bench/losses.py [--seconds 60]` prints a Markdown table.

Forward and backward for a batch of 128x128, from the logits to their gradient, on the GPU if there is one. The terms
are measured in turn, so other load on the machine slows all of them: compare ratios.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from saltray.config import LossConfig
from saltray.training.losses import tile_losses

SIZE = 128
BATCHES = (32, 256)
OFF = {"bce": 0.0, "dice": 0.0}
LOSSES = {
    **{term: LossConfig(**OFF | {term: 1.0}) for term in ("bce", "dice", "lovasz", "lovasz_elu", "focal")},
    "bce + dice (default)": LossConfig(),
    "bce + lovasz_elu": LossConfig(dice=0, lovasz_elu=1),
}


def milliseconds(config: LossConfig, batch: int, device: torch.device) -> Iterator[float]:
    """Of each forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 1, SIZE, SIZE, generator=generator).to(device).requires_grad_()
    masks = (torch.rand(batch, 1, SIZE, SIZE, generator=generator) < 0.25).float().to(device)
    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while True:
        logits.grad = None
        synchronize()
        started = time.perf_counter()
        tile_losses(logits, masks, config).mean().backward()  # type: ignore[no-untyped-call]
        synchronize()
        yield 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="measuring time")
    seconds = parser.parse_args().seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = [(name, batch) for name in LOSSES for batch in BATCHES]
    contenders = [milliseconds(LOSSES[name], batch, device) for name, batch in cases]
    for contender in contenders:
        next(contender)  # warm-up
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while not rounds or time.perf_counter() < end:
        rounds.append([next(contender) for contender in contenders])
    found = {case: median(column) for case, column in zip(cases, zip(*rounds, strict=True), strict=True)}
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{SIZE}x{SIZE}, {where}, torch {torch.__version__}; ms, medians of {len(rounds)} rounds\n")
    print("| loss | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |")
    print("|---|" + "---|" * len(BATCHES))
    for name in LOSSES:
        print(f"| {name} | " + " | ".join(f"{found[name, batch]:.2f}" for batch in BATCHES) + " |")


if __name__ == "__main__":
    main()
