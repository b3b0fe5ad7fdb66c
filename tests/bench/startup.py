"""How long until five folds train, and what takes the time? `uv run python tests/bench/startup.py [--rounds 3]`.

Five one-rank folds of a thin network, some steps each, on this machine, by a process of its own each time: with workers
that saltray's fork server forks, and with workers that Ray starts, each of which imports everything; in turn. Prints
a Markdown table of the parts, medians of all rounds: wall seconds, and CPU seconds of all processes until all folds
train. `--ways forked` measures one way alone; `--out FILE` keeps every round as JSON.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from processes import cpu_seconds, kind_of, started_at, tree

WAYS = ("forked", "plain")
PARTS = {
    "planned": "imports of the driver; tiles read, checked and split",
    "connected": "Ray started",
    "first rank": "until the first rank is a process",
    "last rank": "until the last is",
    "first fold": "until the first fold trains",
    "last fold": "until the last fold trains",
}
"""Moments of a start, and what happens before each."""


@contextlib.contextmanager
def no_fork_server(base: Path) -> Iterator[str]:
    yield sys.executable


def start(way: str, data: str, store: str, folds: int) -> dict[str, Any]:
    """Train in this process; seconds from its start to each moment, and CPU seconds by kind of process."""
    from saltray.distributed import cluster

    if way == "plain":
        cluster.fork_server = no_fork_server
    import saltray
    from saltray.config import Config, FoldConfig, ModelConfig, TrainConfig
    from saltray.progress import CapacityFound, Event, FoldEpoch, RunPlanned

    config = Config(
        data=data,
        store=store,
        folds=FoldConfig(count=folds),
        model=ModelConfig(num_filters=4, encoder_width=8),
        train=TrainConfig(epochs=1, batch_size=8, precision="fp32"),
    )
    moments: dict[str, float] = {}
    spent: dict[str, float] = {}
    ranks: dict[int, float] = {}
    trained = 0

    def observe(event: Event) -> None:
        nonlocal trained, spent
        match event:
            case RunPlanned():
                moments["planned"] = time.time()
            case CapacityFound():
                moments["connected"] = time.time()
            case FoldEpoch():
                trained += 1
                for pid in tree(os.getpid()):
                    if kind_of(pid) == "RayTrainWorker" and (at := started_at(pid)) is not None:
                        ranks[pid] = at
                if trained == folds:
                    spent = cpu_seconds(os.getpid())

    begun = started_at(os.getpid())
    assert begun is not None
    starts = sorted(fold.started for fold in saltray.train(config, observer=observe).results)
    moments["first rank"], moments["last rank"] = min(ranks.values()), max(ranks.values())
    moments["first fold"], moments["last fold"] = starts[0], starts[-1]
    done = time.time() - begun
    return {"way": way, "seconds": {name: moments[name] - begun for name in PARTS} | {"whole": done}, "cpu": spent}


def measure(way: str, data: Path, store: Path, folds: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", way, str(data), str(store), "--folds", str(folds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def table(rounds: list[dict[str, Any]]) -> str:
    ways = [way for way in WAYS if any(row["way"] == way for row in rounds)]

    def cells(read: Any) -> str:
        return " | ".join(f"{median([read(row) for row in rounds if row['way'] == way]):.1f}" for way in ways)

    lines = [f"| seconds | {' | '.join(ways)} |", "|---|" + "---|" * len(ways)]
    names = list(PARTS)
    for before, name in zip([None, *names], names, strict=False):
        lines.append(
            f"| {PARTS[name]} | "
            + cells(lambda row, a=before, b=name: row["seconds"][b] - (row["seconds"][a] if a else 0))
            + " |"
        )
    lines.append(f"| **all folds train** | {cells(lambda row: row['seconds']['last fold'])} |")
    lines.append(f"| the whole command | {cells(lambda row: row['seconds']['whole'])} |")
    lines.append(f"| CPU time until all folds train | {cells(lambda row: sum(row['cpu'].values()))} |")
    kinds = sorted({kind for row in rounds for kind in row["cpu"]})
    lines += [f"| of it: {kind} | {cells(lambda row, k=kind: row['cpu'].get(k, 0))} |" for kind in kinds]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, help="JSON file for every round")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "DATA", "STORE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(start(*args.one, args.folds)))
        return
    from saltray.data.synthetic import write_dataset

    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder, "tiles"), tiles=40)
        for number in range(args.rounds):
            for way in args.ways:
                rounds.append(measure(way, data, Path(folder, f"{way}-{number}"), args.folds))
                if args.out:
                    args.out.write_text(json.dumps(rounds, indent=1))
    print(table(rounds))


if __name__ == "__main__":
    main()
