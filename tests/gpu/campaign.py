"""All that only a GPU can show, in one command: `tests/gpu/campaign --data TILES --out OUT [--minutes 25]`.

The parts run in order of worth, each within a time of its own; what does not fit is skipped and said so, what fails is
recorded and the next starts. OUT gets campaign.json, tables as campaign.md, a picture campaign.png and all output as
campaign.log, and is written after each part. The same command does what is missing: a part that is finished in OUT is
not repeated, and a run that was cut resumes while --work is kept. TILES are the 4,000 pairs: a folder, or a zip as
`tests/gpu/carry` makes it.

A machine with a GPU, its own torch and no network needs the wheels of `tests/gpu/carry FOLDER --data DIR` (about
50 MiB, tiles included). On it, in the root of the repository:

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site FOLDER/*.whl
    export PYTHONPATH=$PWD:/tmp/site
    tests/gpu/campaign --data FOLDER/tiles.zip --out OUT --work /tmp/campaign --minutes 9

Where a command may take ten minutes at most and the machine is kept for the next one, the same again with
`--minutes 4.5` does what is missing; on another machine, carry the OUT of the first one along. --parts runs only
some, in the order given; --whole trains the recipes of the part `recipes` for all of their epochs, in an hour or two:
`tests/gpu/campaign --parts recipes --whole --minutes 180 ...`. --dry shows on a CPU that it runs.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]
from parts import PARTS, Options, Record  # noqa: E402  # beside this file, which is no package

GRACE = 25.0
"""Seconds in which a part that is cut ends its Ray."""
OVER = ("done", "failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the 4,000 pairs of tiles: a folder or a zip")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for stores and test files; OUT/work unless given")
    parser.add_argument("--minutes", type=float, default=25, help="for all parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these, in this order")
    parser.add_argument("--whole", action="store_true", help="train the recipes for all of their epochs")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with a thin network")
    parser.add_argument("--child-until", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    work = (asked.work or asked.out / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = str(Path(asked.data).resolve()) if Path(asked.data).exists() else asked.data
    options = Options(data=data, work=work, dry=asked.dry, whole=asked.whole)
    if asked.child_until is not None:
        run_parts(asked.parts, options, asked.child_until)
        return
    signal.signal(signal.SIGTERM, stop)
    if not Campaign(asked.out, options, asked.parts, time.time() + 60 * asked.minutes).run():
        sys.exit(1)


# The process that measures


def run_parts(names: Sequence[str], options: Options, until: float) -> None:
    """Run parts that share a process, one after another, each into a record of its own."""
    signal.signal(signal.SIGTERM, stop)
    with PARTS[names[0]].around(options):
        for name in names:
            record = Record(options.work / f"{name}.json")
            if (shortage := time_lacking(name, until)) is not None:
                record.status, record.note = "skipped", shortage
                record.save()
                continue
            record.save()
            try:
                PARTS[name].run(options, record)
                record.status = "done"
            except Exception as error:  # whatever it is, the next part may do
                traceback.print_exc()
                record.status, record.note = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
            record.seconds = time.time() - record.started
            record.save()


def time_lacking(name: str, until: float) -> str | None:
    """Why a part is not begun."""
    left, least = until - time.time(), PARTS[name].least
    return f"{max(0, left):.0f} s left, it needs {least:.0f}" if left < least else None


def stop(number: int, frame: object) -> NoReturn:
    """As Ctrl-C, so that Ray is ended."""
    raise KeyboardInterrupt


# The process that keeps the time


class Campaign:
    """The results so far, and the process that adds to them."""

    def __init__(self, out: Path, options: Options, names: Sequence[str], until: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.options, self.until = out, options, until
        self.names = list(names)
        self.file = out / "campaign.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {"parts": {}}
        self.found["machine"] = machine()

    def run(self) -> bool:
        """Run what is missing; whether no part has failed."""
        missing = [name for name in self.names if self.parts.get(name, {}).get("status") != "done"]
        for name in set(self.names) - set(missing):
            self.tell(name, "finished before")
        while missing:
            if (shortage := time_lacking(missing[0], self.until)) is not None:
                self.keep(missing.pop(0), None, "skipped", shortage)
                continue
            _, group = next(itertools.groupby(missing, key=lambda name: PARTS[name].around))
            names = list(group)
            for name in names:
                (self.options.work / f"{name}.json").unlink(missing_ok=True)
            for name in self.follow(names):
                missing.remove(name)
        self.write()
        return all(self.parts[name]["status"] != "failed" for name in self.names)

    @property
    def parts(self) -> dict[str, Any]:
        """Name of a part -> its record."""
        parts: dict[str, Any] = self.found["parts"]
        return parts

    def follow(self, names: list[str]) -> list[str]:
        """Run these parts in one process until all are over or one has to be cut; those that are over."""
        options = self.options
        command = [sys.executable, __file__, "--data", options.data, "--out", self.out, "--work", options.work]
        flags = [flag for flag, is_set in (("--dry", options.dry), ("--whole", options.whole)) if is_set]
        with (self.out / "campaign.log").open("a") as log:
            process = subprocess.Popen(
                [*map(str, command), *flags, "--child-until", str(self.until), "--parts", *names],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        over: list[str] = []
        began = time.time()
        try:
            while len(over) < len(names):
                ended = process.poll() is not None  # before the look: what it wrote last is there then
                name = names[len(over)]
                record = self.record(name)
                if record is not None and record["status"] != "running":
                    over.append(self.keep(name, record))
                elif ended:
                    over.append(self.keep(name, record, "failed", f"its process ended with {process.returncode}"))
                    return over
                elif time.time() > min(self.until, (record["started"] if record else began) + PARTS[name].limit):
                    end(process)
                    over.append(self.keep(name, self.record(name), "cut"))
                    return over
                else:
                    time.sleep(0.1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
        except KeyboardInterrupt:
            end(process)
            if len(over) < len(names):
                self.keep(names[len(over)], self.record(names[len(over)]), "cut")
            raise
        finally:
            end(process)
        return over

    def record(self, name: str) -> dict[str, Any] | None:
        """What a part has written so far."""
        path = self.options.work / f"{name}.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return found

    def keep(self, name: str, record: dict[str, Any] | None, status: str | None = None, note: str = "") -> str:
        """Take a part's record into the results."""
        record = record or {"rows": [], "note": "", "curve": [], "status": "", "seconds": 0.0, "started": time.time()}
        if status is not None:
            record |= {"status": status, "seconds": time.time() - record["started"]}
            record["note"] = "; ".join(filter(None, [note, record["note"]]))
        self.parts[name] = record
        self.tell(name, f"{record['status']} after {record['seconds']:.0f} s")
        self.write()
        return name

    def tell(self, name: str, what: str) -> None:
        """A line for a part, and its table."""
        note = self.parts[name]["note"]
        print(f"{name}: {PARTS[name].title}: {what}{f' ({note})' * bool(note)}; aim: {PARTS[name].aim}", flush=True)
        print(table(self.parts[name]["rows"]), flush=True)

    def write(self) -> None:
        """All results, as they are."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.found, indent=1))
        new.replace(self.file)
        told = [f"# {self.found['machine']}\n"]
        for name, record in self.parts.items():
            head = f"{record['status']}, {record['seconds']:.0f} s"
            told.append(f"## {PARTS[name].title} (aim: {PARTS[name].aim})\n\n{head}. {record['note']}\n")
            told.append(table(record["rows"]))
        (self.out / "campaign.md").write_text("\n".join(told) + "\n")
        draw(self.parts, self.out / "campaign.png")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what is left of its session."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def machine() -> str:
    """The GPUs, torch and Ray."""
    import ray
    import torch

    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return f"{', '.join(gpus) or 'CPU'}; {os.cpu_count()} cores; torch {torch.__version__}; Ray {ray.__version__}"


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""
    lines = [names, ["---"] * len(names)]
    lines += [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(parts: dict[str, Any], path: Path) -> None:
    """Images per second by batch and mode, and the score over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    rows = [row for row in parts.get("step", {}).get("rows", ()) if row["images_per_second"]]
    for mode in dict.fromkeys(row["mode"] for row in rows):
        each = [row for row in rows if row["mode"] == mode]
        left.plot([row["batch"] for row in each], [row["images_per_second"] for row in each], marker="o", label=mode)
    left.set(xlabel="batch", ylabel="images/s", title="The step", ylim=(0, None))
    if rows:
        left.set_xscale("log", base=2)
        left.legend()
    if curve := parts.get("fast", {}).get("curve"):
        right.plot(*zip(*curve, strict=True))
    right.set(xlabel="seconds from the command", ylabel="mean validation score", title="The recipe fast")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
