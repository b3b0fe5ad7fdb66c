"""What the recipes reach, and in how long. `uv run python tests/gpu/recipes.py --data DIR [--recipe fast ...]`.

Trains all folds at once on one GPU, a recipe after the other, and prints a Markdown table: the cross-fitted
out-of-fold score with its interval, the spread over folds, and the time of the whole command. The same command
resumes. `--gpus-per-worker 0 --epochs 2` on a few synthetic tiles shows on a CPU that it runs.
"""

import argparse
import dataclasses
import time

import torch

import saltray
from saltray.config import ClusterConfig
from saltray.recipes import RECIPES

AIMS = {"fast": "0.83 in 5 min", "best": "0.87 in 60 min", "blog": "beside them"}
"""At full width on one H100 or H200."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the 4,000 tiles")
    parser.add_argument("--store", default="saltray-recipes")
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(AIMS))
    parser.add_argument("--gpus-per-worker", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's; late losses and cycles are left out then")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"| recipe on {device} | score | 95 % interval | std over folds | minutes | aim |\n|---|---|---|---|---|---|")
    for name in options.recipe:
        config = RECIPES[name](data=options.data, store=options.store, run=name)
        config = dataclasses.replace(config, cluster=ClusterConfig(gpus_per_worker=options.gpus_per_worker))
        if options.epochs is not None:
            config = shortened(config, options.epochs)
        started = time.monotonic()
        found = saltray.train(config).evaluation
        minutes = (time.monotonic() - started) / 60
        spread = "" if found.spread is None else f"{found.spread:.4f}"
        print(
            f"| {name} | {found.score:.4f} | {found.interval} | {spread} | {minutes:.1f} | {AIMS[name]} |", flush=True
        )


def shortened(config: saltray.Config, epochs: int) -> saltray.Config:
    """The same network and loss for fewer epochs."""
    schedule = "constant" if config.optim.schedule == "constant" else "cosine"
    return dataclasses.replace(
        config,
        late_loss=type(config.late_loss)(),
        optim=dataclasses.replace(config.optim, schedule=schedule, cycles=type(config.optim)().cycles),
        train=dataclasses.replace(config.train, epochs=epochs, snapshots=1),
    )


if __name__ == "__main__":
    main()
