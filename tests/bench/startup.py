"""How long until five folds train? `uv run python tests/bench/startup.py [--rounds 1]` prints a Markdown table.

Five one-rank folds of a small network, one epoch each, on this machine: once on the Ray that saltray starts, whose
workers are forked, and once on a plain `ray.init()`, whose workers each import everything; in turn.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import saltray
from saltray.config import Config, ModelConfig, TrainConfig
from saltray.distributed.cluster import ENVIRONMENT, ray_cluster


def seconds_to_train(data: str, store: Path) -> float:
    """Seconds from the call until the last of the five folds has begun its first epoch."""
    config = Config(
        data=data,
        store=str(store),
        model=ModelConfig(num_filters=4, encoder_width=8),
        train=TrainConfig(epochs=1, batch_size=8, precision="fp32"),
    )
    called = time.time()
    return max(fold.started for fold in saltray.train(config).results) - called


def plain(data: str, store: Path) -> float:
    import ray

    os.environ.update(ENVIRONMENT)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        return seconds_to_train(data, store)
    finally:
        ray.shutdown()


def forked(data: str, store: Path) -> float:
    with ray_cluster():
        return seconds_to_train(data, store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        data = saltray.synth(Path(folder, "tiles"), tiles=40)
        times: dict[str, list[float]] = {"forked": [], "plain": []}
        for at in range(rounds):
            times["forked"].append(forked(data, Path(folder, f"forked-{at}")))
            times["plain"].append(plain(data, Path(folder, f"plain-{at}")))
    each = {name: median(values) for name, values in times.items()}
    print("| workers | until all five folds train | ratio |\n|---|---|---|")
    for name, value in each.items():
        print(f"| {name} | {value:.0f} s | {value / each['forked']:.1f} |")


if __name__ == "__main__":
    main()
