"""saltray beside what people use in its place: `uv run python tests/bench/peers.py [--only 1 4] [--out peers.json]`.

1  the loop of the blog of 2018 against a fold of saltray's, at its 256 pixels and batch of 8
2  a torchrun DDP script as people write it against saltray's loop, two ranks
3  segmentation_models_pytorch's Unet(resnet34) under Lightning's Trainer against saltray's loop, in an environment of
   its own, which is installed first
4  five folds by `saltray train` against a plain script that trains one after another
5  Ray's overhead over torchrun: start-up, and the share of an epoch that lasts a minute
6  trials an hour, and what a trial takes beside its training
7  peak memory of five folds at once against one
8  how long checkpoints and out-of-fold predictions hold up the training

Each part takes about three minutes on two idle cores. Its contenders run in turn, each in a process of its own, round
after round until --seconds have passed; medians of all rounds, whose first epochs do not count; a ratio is the median
of each round's. What else runs on the machine changes times more than ratios. --out keeps every round as JSON, with
the parts that it has of earlier calls; --data takes real tiles in the Kaggle layout in place of synthetic ones.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from processes import Watch

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
SCRIPTS = BENCH / "peer_scripts"
SALTRAY = str(Path(sys.executable).with_name("saltray"))
PLAIN = ("--model.no-decoder-batchnorm", "--model.no-deep-supervision")
"""AlbuNet as published, as the plain scripts have it."""
THIN = ("--model.num-filters", "4", "--model.encoder-width", "8", "--train.precision", "fp32", *PLAIN)
Row = dict[str, float]
Round = dict[str, Row]
"""Figures of each contender."""


class Bench:
    """Tiles, a folder for what is written, how long a part may take, and whether its networks are thin to try it."""

    def __init__(self, folder: Path, data: Path | None, seconds: float, *, thin: bool) -> None:
        self.folder = folder
        self.given = data
        self.seconds = seconds
        self.thin = ("--thin",) if thin else ()
        self.width = THIN if thin else PLAIN
        self.stores = 0

    def tiles(self, count: int) -> Path:
        """A folder with so many training tiles."""
        from saltray.data.synthetic import write_dataset

        target = self.folder / f"tiles-{count}"
        if not target.exists() and self.given is None:
            write_dataset(target, tiles=count, test_tiles=1, noise=0)
        elif not target.exists():
            for kind in ("images", "masks"):
                (target / "train" / kind).mkdir(parents=True)
                for path in sorted((self.given / "train/images").glob("*.png"))[:count]:
                    (target / "train" / kind / path.name).symlink_to(self.given.resolve() / "train" / kind / path.name)
        return target

    def store(self) -> Path:
        """A store that is not there yet."""
        self.stores += 1
        return self.folder / f"store-{self.stores}"

    def run(self, *command: object, watch: Mapping[str, Any] | None = None) -> "Done":
        """Run a command to its end."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            began = time.time()
            process = subprocess.Popen(
                [str(word) for word in command], cwd=self.folder, env=environment, stdout=out, stderr=err
            )
            with Watch(process.pid, **(watch or {})) as seen:
                code = process.wait()
            seconds = time.time() - began
            out.seek(0)
            err.seek(0)
            if code:
                raise SystemExit(f"{' '.join(map(str, command))}\n{err.read()}\nexit code {code}")
            lines = [json.loads(line) for line in out if line.startswith("{")]
        return Done(began, seconds, lines, seen)

    def rounds(self, contenders: Mapping[str, Callable[[], Row]]) -> list[Round]:
        """Run the contenders in turn until the time is over, at least once."""
        rounds: list[Round] = []
        end = time.monotonic() + self.seconds
        longest = 0.0
        while not rounds or time.monotonic() + longest < end:
            began = time.monotonic()
            rounds.append({name: run() for name, run in contenders.items()})
            longest = max(longest, time.monotonic() - began)
        return rounds


class Done:
    """A command that has ended: when it began (since 1970), its seconds, its lines of JSON, what was seen of it."""

    def __init__(self, began: float, seconds: float, lines: list[dict[str, Any]], seen: Watch) -> None:
        self.began = began
        self.seconds = seconds
        self.lines = lines
        self.seen = seen

    def speed(self) -> Row:
        """Images a second, and CPU seconds an image, of all ranks together; without the first epoch."""
        ranks = {line["rank"] for line in self.lines}
        of = {rank: [line for line in self.lines if line["rank"] == rank] for rank in ranks}
        later = {rank: lines[1:] or lines for rank, lines in of.items()}
        images = sum(line["images"] for lines in later.values() for line in lines)
        rates = [sum(row["images"] for row in rows) / length(rows[0]) for rows in zip(*later.values(), strict=True)]
        cpu = sum(line["cpu"] for lines in later.values() for line in lines)
        return {"images/s": median(rates), "CPU s/image": cpu / images}


def length(line: Mapping[str, float]) -> float:
    return line["ended"] - line["began"]


def python(script: str, *args: object, ranks: int = 1, executable: object = sys.executable) -> tuple[object, ...]:
    """The command that runs one of the scripts."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}") if ranks > 1 else ()
    return (executable, *torchrun, SCRIPTS / script, *args)


def history(store: Path, job: str, top: str = "runs/r1") -> list[Any]:
    """The epochs of a job."""
    from saltray.runs.history import epochs_of, read_history
    from saltray.storage.uri import open_store

    return list(epochs_of(read_history(open_store(f"{store}/{top}/{job}"))))


def blog(bench: Bench) -> list[Round]:
    common = (
        "--data",
        bench.tiles(20),
        "--tiles",
        20,
        "--size",
        256,
        "--resize",
        2,
        "--batch",
        8,
        "--epochs",
        3,
        *bench.thin,
    )
    return bench.rounds(
        {
            "saltray": lambda: bench.run(*python("engine_script.py", *common)).speed(),
            "saltray, fp32": lambda: bench.run(*python("engine_script.py", *common, "--precision", "fp32")).speed(),
            "blog's loop": lambda: bench.run(*python("plain_script.py", *common, "--no-validation")).speed(),
        }
    )


def ddp(bench: Bench) -> list[Round]:
    common = ("--data", bench.tiles(80), "--tiles", 80, "--batch", 16, "--epochs", 3, *bench.thin)

    def ours(precision: str) -> Row:
        return bench.run(*python("engine_script.py", *common, "--precision", precision, ranks=2)).speed()

    return bench.rounds(
        {
            "saltray": lambda: ours("bf16"),
            "saltray, fp32": lambda: ours("fp32"),
            "DDP script": lambda: bench.run(*python("plain_script.py", *common, "--no-validation", ranks=2)).speed(),
        }
    )


def lightning(bench: Bench) -> list[Round]:
    executable = lightning_environment(bench.folder / "lightning")
    few = ("--tiles", 10, "--batch", 4, "--size", 128) if bench.thin else ("--tiles", 80, "--batch", 16)
    common = ("--data", bench.tiles(80), *few, "--epochs", 3)

    def run(script: str, *more: object) -> Row:
        return bench.run(*python(script, *common, *more, executable=executable)).speed()

    return bench.rounds(
        {
            "saltray": lambda: run("engine_script.py", "--unet"),
            "saltray, fp32": lambda: run("engine_script.py", "--unet", "--precision", "fp32"),
            "Lightning, bf16": lambda: run("lightning_script.py", "--precision", "bf16-mixed"),
            "Lightning, fp32": lambda: run("lightning_script.py"),
        }
    )


def lightning_environment(folder: Path) -> Path:
    """An environment with Lightning, segmentation_models_pytorch, this saltray and this torch; its Python."""
    import tomllib

    executable = folder / "bin/python"
    if not executable.exists():
        pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
        constraints = folder.with_name("constraints.txt")
        constraints.write_text("\n".join(pinned))
        packages = ("lightning", "segmentation-models-pytorch", "-e", ROOT)
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, folder], check=True)
        install = ["uv", "pip", "install", "-q", "--python", executable, "--constraint", constraints, *packages]
        subprocess.run(install, check=True, cwd=folder.parent)  # elsewhere uv reads the project's settings
    return executable


def five_folds(bench: Bench) -> list[Round]:
    data, epochs = (bench.tiles(40), 2) if bench.thin else (bench.tiles(240), 8)

    def ours() -> Row:
        store = bench.store()
        sizes = ("--train.epochs", epochs, "--train.batch-size", 8)
        done = bench.run(SALTRAY, "train", "--data", data, "--store", store, *sizes, *THIN)
        results = [json.loads((store / f"runs/r1/fold-{fold}/result.json").read_text()) for fold in range(5)]
        began, ended = min(row["started"] for row in results), max(row["finished"] for row in results)
        cpu = sum(done.seen.cpu.values())
        return {"training s": ended - began, "whole s": done.seconds, "start-up s": began - done.began, "CPU s": cpu}

    def plain() -> Row:
        options = ("--epochs", epochs, "--batch", 8, "--thin", "--folds", *range(5))
        done = bench.run(*python("plain_script.py", "--data", data, *options))
        began, ended = done.lines[0]["began"], done.lines[-1]["ended"]
        cpu = sum(done.seen.cpu.values())
        return {"training s": ended - began, "whole s": done.seconds, "start-up s": began - done.began, "CPU s": cpu}

    return bench.rounds({"saltray": ours, "one fold after another": plain})


def overhead(bench: Bench) -> list[Round]:
    """Epochs of full-width steps; between two epochs Ray's report and the history are the only difference."""
    data, epochs, batch = bench.tiles(40 if bench.thin else 120), 4, 16

    def ray() -> Row:
        store = bench.store()
        sizes = ("--train.epochs", epochs, "--train.batch-size", batch, "--workers-per-fold", 2, *bench.width)
        command = (SALTRAY, "train", "--data", data, "--store", store, "--only-folds", 0, *sizes)
        done = bench.run(*command, "--train.eval-every", 10**6)
        return figures(
            done,
            [(row.at - row.seconds, row.at, row.seconds, row.images_per_second) for row in history(store, "fold-0")],
        )

    def torchrun() -> Row:
        done = bench.run(
            *python("engine_script.py", "--data", data, "--epochs", epochs, "--batch", batch, *bench.thin, ranks=2)
        )
        rows = [line for line in done.lines if line["rank"] == 0]
        return figures(
            done, [(row["ended"] - row["seconds"], row["ended"], row["seconds"], row["rate"]) for row in rows]
        )

    def figures(done: Done, epochs: list[tuple[float, float, float, float]]) -> Row:
        # The last epoch is validated.
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(epochs)]
        minute = 60 / median([epoch[2] for epoch in epochs[1:-1]])
        beside = {kind: seconds for kind, seconds in done.seen.cpu.items() if kind not in ("RayTrainWorker", "driver")}
        return {
            "images/s": median([epoch[3] for epoch in epochs[1:]]),
            "start-up s": epochs[0][0] - done.began,
            "between epochs s": median(gaps),
            "% of a minute": median(gaps) / 0.6,
            "CPU s beside ranks": sum(beside.values()),
            "epochs a minute": minute,
        }

    return bench.rounds({"saltray": ray, "torchrun": torchrun})


def trials(bench: Bench) -> list[Round]:
    return bench.rounds({"saltray": lambda: search(bench)})


def search(bench: Bench) -> Row:
    """Six trials of three short epochs, as many at once as the machine has cores."""
    count = 2 if bench.thin else 6
    store = bench.store()
    done = bench.run(sys.executable, __file__, "--search", bench.tiles(40), store, count)
    (told,) = done.lines
    rows: dict[str, list[float]] = {name: [] for name in ("start s", "training s", "between epochs s", "end s")}
    for name, (started, ended) in told["trials"].items():
        epochs = history(store, name, "searches/s1")
        began, trained = epochs[0].at - epochs[0].seconds, sum(epoch.seconds for epoch in epochs)
        rows["start s"].append(began - started)
        rows["training s"].append(trained)
        rows["between epochs s"].append(epochs[-1].at - began - trained)
        rows["end s"].append(ended - epochs[-1].at)
    times = list(told["trials"].values())
    first, last = min(start for start, _ in times), max(end for _, end in times)
    each = (last - first) * told["concurrency"] / count
    beside = sum(median(values) for values in rows.values())
    cpu = {f"CPU s a trial, {kind}": seconds / count for kind, seconds in sorted(done.seen.cpu.items())}
    return {
        "trials/hour": 3600 * count / (last - first),
        "s a trial": each,
        **{name: median(values) for name, values in rows.items()},
        "slot idle s": each - beside,
        "start of the search s": first - done.began,
        "end of the search s": done.began + done.seconds - last,
        **{name: seconds for name, seconds in cpu.items() if seconds > 0.2},
    }


def run_search(data: str, store: str, count: int) -> None:
    """Prints when each trial started and ended."""
    import saltray
    from saltray.progress import CapacityFound, Event, TrialEnded, TrialStarted

    started: dict[str, float] = {}
    ended: dict[str, float] = {}
    concurrency = 0

    def observe(event: Event) -> None:
        nonlocal concurrency
        match event:
            case CapacityFound():
                concurrency = event.concurrency
            case TrialStarted():
                started[event.trial.name] = time.time()
            case TrialEnded():
                ended[event.trial.name] = time.time()

    config = saltray.Config(
        data=data,
        store=store,
        model=saltray.ModelConfig(num_filters=4, encoder_width=8),
        train=saltray.TrainConfig(epochs=3, batch_size=8, precision="fp32"),
    )
    settings = saltray.SearchConfig(
        name="s1", space={"optim.lr": saltray.loguniform(1e-4, 1e-2)}, trials=count, prune=False
    )
    saltray.tune(config, settings, observer=observe)
    print(json.dumps({"concurrency": concurrency, "trials": {name: (started[name], ended[name]) for name in ended}}))


def peak_memory(bench: Bench) -> list[Round]:
    data = bench.tiles(40 if bench.thin else 1000)

    def run(*folds: object) -> Row:
        sizes = ("--train.epochs", 1, "--train.batch-size", 8)
        command = (SALTRAY, "train", "--data", data, "--store", bench.store(), *sizes, *THIN, *folds)
        peak = bench.run(*command, watch={"memory": True}).seen.peak
        megabytes = {kind: used / 2**20 for kind, used in peak.items()}
        return {"MB": sum(megabytes.values())} | {f"MB, {kind}": megabytes[kind] for kind in sorted(megabytes)}

    return bench.rounds({"five folds at once": run, "one": lambda: run("--only-folds", 0)})


def stall(bench: Bench) -> list[Round]:
    """Full width, where a checkpoint has 450 MB, and epochs of two steps."""
    data, epochs = bench.tiles(40), 6
    cycles = ("--optim.schedule", "cycles", "--optim.cycles", 3, "--train.snapshots", 3)

    def run(*settings: object) -> Row:
        store = bench.store()
        sizes = ("--train.epochs", epochs, "--train.batch-size", 16, "--train.eval-every", 10**6)
        sizes += bench.width
        command = (SALTRAY, "train", "--data", data, "--store", store, "--only-folds", 0, *sizes, *settings)
        bench.run(*command)
        rows = history(store, "fold-0")
        result = json.loads((store / "runs/r1/fold-0/result.json").read_text())
        after = {row.epoch: later.at - later.seconds - row.at for row, later in pairwise(rows)}
        at_end = [seconds for epoch, seconds in after.items() if epoch % 2 == 0]
        return {
            "between epochs s": median(after.values()),
            "longest s": max(after.values()),
            "after cycles s": median(at_end),
            "after the last epoch s": result["finished"] - rows[-1].at,
        }

    return bench.rounds(
        {
            "no checkpoint": lambda: run("--train.checkpoint-every", 10**6),
            "a checkpoint an epoch": lambda: run("--train.checkpoint-every", 0),
            "a snapshot every second epoch": lambda: run("--train.checkpoint-every", 10**6, *cycles),
        }
    )


PARTS: dict[int, tuple[str, Callable[[Bench], list[Round]]]] = {
    1: ("AlbuNet at 256x256, batch 8, one fold", blog),
    2: ("AlbuNet at 128x128, batch 16, two ranks", ddp),
    3: ("Unet(resnet34) at 128x128, batch 16", lightning),
    4: ("five folds of a thin network, 240 tiles, 8 epochs", five_folds),
    5: ("Ray Train against torchrun, AlbuNet, two ranks", overhead),
    6: ("a search, thin network, 40 tiles, 3 epochs", trials),
    7: ("peak memory (PSS), thin network, 1,000 tiles", peak_memory),
    8: ("AlbuNet, epochs of two steps: time that the training waits", stall),
}


def table(rounds: list[Round]) -> str:
    """Medians; with several contenders, too, the ratio of the first to each."""
    names = list(rounds[0])
    figures = list(dict.fromkeys(figure for each in rounds for row in each.values() for figure in row))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for figure in figures:
        cells = []
        for name in names:
            rows = [each for each in rounds if figure in each[name]]
            if not rows:
                cells.append("")
                continue
            cell = f"{median([each[name][figure] for each in rows]):.3g}"
            pairs = [(each[names[0]].get(figure), each[name][figure]) for each in rows]
            ratios = [first / other for first, other in pairs if first and other]
            cells.append(f"{cell} ({median(ratios):.2f})" if name != names[0] and ratios else cell)
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    ratio = f"; in brackets: {names[0]} / it" if len(names) > 1 else ""
    return "\n".join(lines) + f"\n\n{len(rounds)} round{'s' * (len(rounds) > 1)}{ratio}\n"


def machine() -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=150, help="of a part; a round that was begun is finished")
    parser.add_argument("--data", type=Path, help="real tiles, in the Kaggle layout")
    parser.add_argument("--out", type=Path, help="JSON of every round")
    parser.add_argument(
        "--thin", action="store_true", help="thin networks and few tiles, to try the script; its figures mean little"
    )
    parser.add_argument("--search", nargs=3, metavar=("DATA", "STORE", "TRIALS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        run_search(args.search[0], args.search[1], int(args.search[2]))
        return
    kept: dict[str, Any] = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        bench = Bench(Path(folder), args.data, args.seconds, thin=args.thin)
        for number in args.only:
            title, part = PARTS[number]
            rounds = part(bench)
            print(f"{number}. {title}\n\n{table(rounds)}", flush=True)
            kept[str(number)] = {"title": title, "machine": machine(), "rounds": rounds}
            if args.out:
                args.out.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
