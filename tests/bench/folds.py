"""Five folds, whole: `uv run python tests/bench/folds.py --data DIR [--epochs 60]` prints a Markdown table.

Trains the full-width network on a data set, all five folds at once: on one GPU they share it, on the CPU they share the
cores. Prints the out-of-fold score, the minutes from start to published ensemble, and the training speed of all folds
together. What it writes goes to a temporary folder unless --store is given.
"""

import argparse
import tempfile
import time

import torch

import saltray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="tiles in the Kaggle layout")
    parser.add_argument("--store", help="where to keep the run; a temporary folder unless given")
    parser.add_argument("--run", default="bench")
    parser.add_argument("--epochs", type=int, default=saltray.TrainConfig().epochs)
    parser.add_argument("--batch-size", type=int, default=saltray.TrainConfig().batch_size)
    args = parser.parse_args()
    gpus = torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        config = saltray.Config(
            data=args.data,
            store=args.store or folder,
            run=args.run,
            train=saltray.TrainConfig(epochs=args.epochs, batch_size=args.batch_size),
            cluster=saltray.ClusterConfig(gpus_per_worker=0.2 if gpus == 1 else None),
        )
        started = time.perf_counter()
        result = saltray.train(config)
        minutes = (time.perf_counter() - started) / 60
    seconds = max(fold.finished for fold in result.results) - min(fold.started for fold in result.results)
    tiles = sum(fold.tiles for fold in result.results)
    seen = tiles * (len(result.results) - 1) * args.epochs
    device = torch.cuda.get_device_name() if gpus else "CPU"
    print("| device | tiles | epochs | batch | score | cross-fitted | baseline | minutes | images/s, all folds |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {device} | {tiles} | {args.epochs} | {args.batch_size} | {result.score:.4f} | "
        f"{result.evaluation.score:.4f} ({result.threshold:.2f}) | {result.baseline:.4f} | {minutes:.1f} | "
        f"{seen / seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
