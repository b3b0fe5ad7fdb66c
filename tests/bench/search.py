"""Does the search find the learning rate, and how cheaply? `uv run python tests/bench/search.py` prints Markdown.

Synthetic tiles, a small network, trials of two ranks each on a Ray of four logical CPUs. Twelve quasi-random trials
that ASHA may stop, then a grid of thirteen rates over the same range, with trials of the same length that run to their
end; last the range test.
"""

import argparse
import tempfile
from pathlib import Path

import saltray
from saltray.config import AugmentConfig, ClusterConfig, Config, ModelConfig, OptimConfig, SearchConfig, TrainConfig
from saltray.distributed.cluster import ray_cluster

RATE, LOW, HIGH = "optim.lr", 1e-5, 1e-1


def recipe(data: str, store: Path, epochs: int) -> Config:
    return Config(
        data=data,
        store=str(store),
        model=ModelConfig(num_filters=4, encoder_width=8),
        optim=OptimConfig(ema_decay=0.9, warmup_epochs=0.5),
        augment=AugmentConfig(rotate=0, scale=0, shift=0.05),
        train=TrainConfig(epochs=epochs, batch_size=8, precision="fp32", seed=1),
        cluster=ClusterConfig(workers_per_fold=2, cpus_per_worker=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument(
        "--store", type=Path, help="where to keep the searches, to resume them; a temporary folder unless given"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_cluster(num_cpus=4):
        data = saltray.synth(Path(folder, "tiles"), tiles=args.tiles, noise=0)
        config = recipe(data, args.store or Path(folder, "store"), args.epochs)
        rates = [LOW * (HIGH / LOW) ** (k / 12) for k in range(13)]
        between, each = {RATE: saltray.loguniform(LOW, HIGH)}, {RATE: saltray.choice(rates)}
        found = saltray.tune(config, SearchConfig(name="search", space=between, trials=12))
        grid = saltray.tune(config, SearchConfig(name="grid", space=each, trials=len(rates), prune=False))
        first = saltray.range_test(config, name="range")
    print("\n| | trials | epochs run | of all | best rate | its score |\n|---|---|---|---|---|---|")
    for name, result in (("search", found), ("grid, no pruning", grid)):
        run = sum(len(trial.epochs) for trial in result.trials)
        share = run / (len(result.trials) * args.epochs)
        best = result.best_config.optim.lr
        cells = [name, len(result.trials), run, f"{share:.0%}", f"{best:.2g}", f"{result.score:.4f}"]
        print("|", " | ".join(map(str, cells)), "|")
    print(f"\nsearch / grid: {found.best_config.optim.lr / grid.best_config.optim.lr:.2f}; ", end="")
    print(f"range test suggests {first.suggestion}")


if __name__ == "__main__":
    main()
