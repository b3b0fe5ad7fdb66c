"""A seeded campaign of faults: `uv run python tests/faults/campaign.py --faults 100 --seed 0 [--out campaign.json]`.

Each unit is one command on one store: train with 1 or 2 ranks, tune, predict, publish; in a folder, or on an S3 server
of this machine behind a proxy. The seed draws its faults: SIGKILL of the driver, a rank, Ray Train's controller, the
raylet, the GCS, the fork server or a prediction actor; SIGTERM, SIGINT and SIGHUP of the driver; errors, resets,
delays, broken-off answers and an outage of 30 s of S3; a full disk (as root). A command that ended is run again until
it is complete; what it then left must equal, bit for bit, what an undisturbed run left. An attempt must be complete, or
end with one line. Prints a table, and exits with 1 where anything was lost or not in order.

`--unit train2/3` repeats one unit of a seed. `--keep DIR` keeps what the units left, and the undisturbed runs for the
next call.
"""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import boto3
from bench.stored import compared, content, download
from command import s3_environment, upload
from faults.disturb import SIGNALS, Attempt, Disk, Step, attempts, send
from faults.s3_proxy import OUTAGE, SeededProxy, running
from moto_server import moto_server
from storage.faulty_s3 import FOREVER, Fault

from saltray.data.synthetic import write_dataset

BUCKET = "campaign"
OUTAGE_S = 30.0
THIN = (
    *("--folds.count", "2", "--train.batch-size", "4", "--train.precision", "fp32", "--train.checkpoint-every", "0"),
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--optim.warmup-epochs", "0.5"),
)
TRAIN = ("train", "--data", "tiles", *THIN, "--train.epochs", "40")
SEARCH = ("--search.concurrent", "1", "--search.no-prune", "--search.space", "optim.lr=1e-3,3e-3,1e-2")
COMMANDS = {
    "train1": TRAIN,
    "train2": (*TRAIN, "--workers-per-fold", "2"),
    "tune": ("tune", "--data", "tiles", *THIN, "--train.epochs", "15", *SEARCH),
    "predict": ("predict", "--data", "tiles", "--out", "out/r1.csv", "--probabilities", "out/r1.parquet"),
    "publish": TRAIN,
}
"""What is run; publish is a training whose folds are finished."""
FILES = ("runs/r1/oof.parquet", *(f"ensembles/r1/*/{name}" for name in ("claim.json", "fold-?.*", "manifest.json")))
"""What it writes in a folder, in order."""
COUNTED = ("survived", "epochs", "repeated", "objects", "bytes", "lost")
PUBLISHED = ("ensembles/", "runs/r1/oof.parquet", "runs/r1/report.html")
"""What a training writes after its folds."""
STORES = ("folder", "s3")
KINDS = ("process", "signal", "network", "disk")


@dataclass
class Unit:
    """One command on one store with its faults, and what came of it."""

    name: str
    seed: str
    subject: str
    store: str
    attempts: list[Attempt] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    epochs: int = 0
    repeated: int = 0
    objects: int = 0
    bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    """What was lost, or not in order."""
    lost: bool = False
    """It was never complete, or not equal."""

    @property
    def survived(self) -> int:
        """Faults that did not end the command: each attempt that ended early was ended by one."""
        return max(0, self.injected.total() - sum(attempt.code != 0 for attempt in self.attempts))

    def record(self) -> dict[str, Any]:
        """As plain values, for a file."""
        attempts = [
            {
                "code": attempt.code,
                "injected": attempt.injected,
                "seconds": round(attempt.seconds, 1),
                "line": attempt.last_line,
            }
            for attempt in self.attempts
        ]
        return {**vars(self), "injected": dict(self.injected), "survived": self.survived, "attempts": attempts}


class Campaign:
    """The working folder, the S3 server, and the undisturbed runs.

    Args:
        keep: folder for what commands left; undisturbed runs in it are not run again.
        endpoint: of an S3 server.
        kinds: which of KINDS may be drawn.
    """

    def __init__(self, keep: Path, endpoint: str, kinds: tuple[str, ...] = KINDS) -> None:
        self.keep = keep
        self.endpoint = endpoint
        self.kinds = tuple(kind for kind in kinds if kind != "disk" or os.geteuid() == 0)
        # Always the same folder, as manifests name it; short, as sockets are below its tmp.
        self.work = keep / "w"
        self.data = keep / "tiles"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        if not self.data.exists():
            write_dataset(self.data, tiles=12, seed=1, test_tiles=150)

    def reference(self, subject: str, store: str) -> Path:
        """What the undisturbed command left."""
        kept = self.keep / f"reference-{'train1' if subject == 'publish' else subject}-{store}"
        if not kept.exists():
            unit = Unit(kept.name, "", subject, store)
            self.prepare(unit)
            os.environ["AWS_ENDPOINT_URL_S3"] = self.endpoint
            attempt = Attempt(self.command(unit), self.work)
            attempt.run([])
            attempt.judge()
            if attempt.code != 0 or attempt.faults:
                raise SystemExit(f"undisturbed {subject} on {store}: {attempt.code} {attempt.last_line}")
            self.collect(unit, kept)
        return kept

    def command(self, unit: Unit) -> tuple[str, ...]:
        """The words of the command line."""
        uri = "store" if unit.store == "folder" else f"s3://{BUCKET}/store"
        where = ("--ensemble", f"{uri}/ensembles/r1") if unit.subject == "predict" else ("--store", uri)
        return (*COMMANDS[unit.subject], *where)

    def prepare(self, unit: Unit) -> None:
        """An empty working folder with what the command needs; predict and publish need a trained store."""
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "tmp").mkdir(parents=True)
        shutil.copytree(self.data, self.work / "tiles")
        if unit.subject not in ("predict", "publish"):
            return
        trained = self.keep / f"reference-train1-{unit.store}" / "store"
        store = self.work / "store"
        shutil.copytree(trained, store)
        if unit.subject == "publish":
            for name in PUBLISHED:
                path = store / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if unit.store == "s3":
            os.environ["AWS_ENDPOINT_URL_S3"] = self.endpoint
            upload(store, f"s3://{BUCKET}/store")
            shutil.rmtree(store)

    def collect(self, unit: Unit, target: Path) -> None:
        """Move what the command left to `target`."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        if unit.store == "s3":
            os.environ["AWS_ENDPOINT_URL_S3"] = self.endpoint
            download(BUCKET, self.work)
        for name in ("store", "out"):
            if (self.work / name).exists():
                (self.work / name).rename(target / name)

    def run(self, subject: str, index: int, seed: int) -> Unit:
        """Run one unit to its end, with the faults that the seed draws."""
        name = f"{subject}/{index}"
        draw = random.Random(f"{seed}/{name}")
        network = "network" in self.kinds
        store = draw.choice(STORES) if set(self.kinds) - {"network"} else "s3"
        unit = Unit(name, f"{seed}/{name}", subject, store)
        reference = self.reference("train1" if subject in ("predict", "publish") else subject, store)
        if subject == "predict":
            reference = self.reference(subject, store)
        self.prepare(unit)
        os.environ["AWS_ENDPOINT_URL_S3"] = self.endpoint
        with ExitStack() as stack:
            proxy = None
            if store == "s3":
                limit = 15 if network else 0
                proxy = SeededProxy(self.endpoint, unit.seed, rate=draw.uniform(0.05, 0.2), limit=limit)
                stack.enter_context(running(proxy))
                os.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
            steps = self._steps(unit, draw, proxy, stack)
            self._attempts(unit, steps, proxy)
        self._judge(unit, reference)
        return unit

    def _steps(self, unit: Unit, draw: random.Random, proxy: SeededProxy | None, stack: ExitStack) -> list[Step]:
        """The faults of a unit that are not the proxy's own, in order."""
        kinds = [kind for kind in self.kinds if kind != "network" or proxy is not None]
        if unit.subject == "publish":
            return self._steps_of_publishing(draw, proxy) if set(kinds) & {"process", "signal"} else []
        steps: list[Step] = []
        disks: dict[str, Disk] = {}
        for _ in range(draw.randint(2, 4)):
            kind = draw.choice(kinds)
            after = self._when(unit, draw)
            if kind == "process":
                ranks = ["actor"] if unit.subject == "predict" else ["rank", "rank", "controller"]
                process = draw.choice([*ranks, "driver", "raylet", "gcs", "fork server"])
                steps.append(Step(f"SIGKILL {process}", after, send(process, "SIGKILL", draw.choice)))
            elif kind == "signal":
                name = draw.choice(["SIGTERM", "SIGINT", "SIGHUP"])
                steps.append(Step(f"{name} driver", after, send("driver", name, draw.choice)))
            elif kind == "network":
                assert proxy is not None
                steps.append(Step(f"S3 {OUTAGE}", after, partial(begin_outage, proxy)))
            else:
                full = draw.choice(
                    ["TMPDIR"] if unit.store == "s3" or unit.subject == "predict" else ["store", "TMPDIR"]
                )
                if full not in disks:
                    disks[full] = Disk(self.work / {"store": "store", "TMPDIR": "tmp"}[full], 512)
                    stack.callback(disks[full].close)
                for_seconds = draw.choice([None, 8.0])
                steps.append(Step(f"full {full}", after, partial(fill, disks[full], for_seconds)))
        if "TMPDIR" in disks:
            before = os.environ.get("TMPDIR")
            os.environ["TMPDIR"] = str(self.work / "tmp")
            stack.callback(partial(restore, "TMPDIR", before))
        return steps

    def _when(self, unit: Unit, draw: random.Random) -> Any:
        """A condition: while Ray starts, while it trains or predicts."""
        seconds, epochs = draw.uniform(1, 20), draw.randint(1, 12)
        if unit.subject == "predict":
            return lambda attempt: attempt.since_step() > seconds
        if draw.random() < 0.25:
            return lambda attempt: attempt.since_step() > seconds
        return lambda attempt: attempt.epochs_since_step() >= epochs

    def _steps_of_publishing(self, draw: random.Random, proxy: SeededProxy | None) -> list[Step]:
        """Signals to the driver at moments of publishing: at a request, or when a file appears."""
        steps = []
        for _ in range(draw.randint(3, 6)):
            name = draw.choice(["SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
            number, file = draw.randint(1, 8), draw.choice(FILES)
            if proxy is not None:
                inject = partial(signal_at_request, proxy, SIGNALS[name], number)
            else:
                inject = partial(signal_at_file, self.work / "store", SIGNALS[name], file)
            steps.append(Step(f"{name} driver", at_once, inject))
        return steps

    def _attempts(self, unit: Unit, steps: list[Step], proxy: SeededProxy | None) -> None:
        """Run the command until it is complete."""
        for attempt in attempts(self.command(unit), self.work, steps, proxy):
            unit.attempts.append(attempt)
            unit.injected.update(attempt.injected)
            unit.wrong += attempt.faults
            print(f"    {attempt.seconds:5.0f} s  code {attempt.code:4}  {summary(attempt.injected)}", flush=True)
            if attempt.last_line:
                print(f"             {attempt.last_line[:300]}", flush=True)
        for attempt in unit.attempts:
            if left := attempt.left():
                unit.wrong.append(f"left running: {', '.join(sorted(left))[:500]}")
                attempt.live.end()

    def _judge(self, unit: Unit, reference: Path) -> None:
        """Hold what is there against what the undisturbed run left."""
        kept = self.keep / f"{unit.seed.replace('/', '-')}"
        self.collect(unit, kept)
        if unit.attempts[-1].code != 0:
            unit.lost = True
            unit.wrong.append(f"never complete: {unit.attempts[-1].last_line}")
            return
        there, right = objects(kept), objects(reference)
        for name in sorted(there.keys() ^ right.keys()):
            unit.wrong.append(f"{'more' if name in there else 'missing'}: {name}")
        for name in sorted(there.keys() & right.keys()):
            if without_version(there[name]) != without_version(right[name]):
                unit.wrong.append(f"differs: {name}")
            unit.objects += 1
            unit.bytes += there[name].stat().st_size
        unit.lost = any(line.startswith(("missing", "differs", "more")) for line in unit.wrong)
        printed = [line.split("  loss")[0] for attempt in unit.attempts for line in attempt.lines if "  epoch " in line]
        unit.epochs = len(printed)
        unit.repeated = len(printed) - len(set(printed))
        if not unit.wrong:
            shutil.rmtree(kept)


def begin_outage(proxy: SeededProxy, attempt: Attempt) -> bool:
    proxy.outage(OUTAGE_S)
    return True


def fill(disk: Disk, seconds: float | None, attempt: Attempt) -> bool:
    return disk.fill(attempt, seconds)


def restore(name: str, value: str | None) -> None:
    """Give a variable of the environment back its value."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def at_once(attempt: Attempt) -> bool:
    return True


def signal_at_request(proxy: SeededProxy, number: signal.Signals, count: int, attempt: Attempt) -> bool:
    """Send a signal to the driver when its write number `count` of what is published comes in."""
    process, sent, writes = attempt.live.process, threading.Event(), itertools.count(1)

    def before() -> None:
        if next(writes) == count and process.poll() is None:
            process.send_signal(number)
            sent.set()

    proxy.faults[:] = [Fault("PUT", text=text, times=FOREVER, before=before) for text in PUBLISHED]
    attempt.wait_for(sent.is_set)
    proxy.faults.clear()
    return sent.is_set()


def signal_at_file(store: Path, number: signal.Signals, name: str, attempt: Attempt) -> bool:
    """Send a signal to the driver as soon as a published file of that name is written."""

    def written() -> set[int]:
        return {path.stat().st_ino for path in store.glob(name)}

    before = written()
    if attempt.wait_for(lambda: bool(written() - before)):
        attempt.live.process.send_signal(number)
        return True
    return False


def objects(root: Path) -> dict[str, Path]:
    """What is compared, by name. Of a publishing that was killed a claimed number stays, which no reader sees."""
    found = {}
    for name, path in compared(root).items():
        if match := re.match(r"(store/ensembles/[^/]+/)v\d+(/.+)", name):
            if path.name != "claim.json" and path.with_name("manifest.json").exists():
                found[f"{match[1]}v{match[2]}"] = path
        else:
            found[name] = path
    return found


def without_version(path: Path) -> Any:
    """What has to be equal of a file; the number of a version may be a later one."""
    value = content(path)
    return re.sub(r'"version": "v\d+"', "", value) if "/ensembles/" in str(path) and isinstance(value, str) else value


def summary(kinds: Iterable[str]) -> str:
    """Kinds with their numbers."""
    return ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in Counter(kinds).items())


def print_table(units: list[Unit]) -> None:
    """The figures of all units, by kind of fault."""
    injected = sum((unit.injected for unit in units), Counter[str]())
    print("\n| fault | injected |\n|---|---|")
    for kind, count in sorted(injected.items()):
        print(f"| {kind} | {count} |")
    total = {name: sum(getattr(unit, name) for unit in units) for name in COUNTED}
    print(f"\n{len(units)} units, {sum(len(unit.attempts) for unit in units)} attempts; injected {injected.total()}, ")
    print(", ".join(f"{name} {value:,}" for name, value in total.items()))
    for unit in units:
        for line in unit.wrong:
            print(f"{unit.name} (seed {unit.seed}): {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100, help="end when so many are injected")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subjects", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--unit", help="SUBJECT/NUMBER: this one alone")
    parser.add_argument("--keep", type=Path, help="folder, of a short name, for what was stored")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs this may ignore it, and commands would inherit that
    keep = args.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    keep.mkdir(exist_ok=True)
    units: list[Unit] = []
    with moto_server() as endpoint:
        os.environ |= s3_environment(endpoint, "campaign", "campaign")
        campaign = Campaign(keep.resolve(), endpoint, tuple(args.kinds))
        with suppress(KeyboardInterrupt):  # then the table is of the units that are finished
            for subject, index in numbered(args.subjects, args.unit):
                print(f"{subject}/{index}", flush=True)
                unit = campaign.run(subject, index, args.seed)
                units.append(unit)
                print(f"    {'; '.join(unit.wrong) or f'{unit.objects} objects equal'}", flush=True)
                if args.unit or sum(unit.injected.total() for unit in units) >= args.faults:
                    break
    print_table(units)
    if args.out:
        args.out.write_text(json.dumps([unit.record() for unit in units], indent=1))
    if args.keep is None and not any(unit.wrong for unit in units):
        shutil.rmtree(keep)
    sys.exit(any(unit.wrong for unit in units))


def numbered(subjects: list[str], unit: str | None) -> Iterator[tuple[str, int]]:
    """Subject and number of each unit: one alone, or all subjects in turn without end."""
    if unit is not None:
        subject, _, number = unit.partition("/")
        yield subject, int(number)
        return
    for number in itertools.count():
        for subject in subjects:
            yield subject, number


if __name__ == "__main__":
    main()
