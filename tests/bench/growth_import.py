"""What a data set costs to make and to import, as it grows: memory, and CPU time an image.

    .venv/bin/python tests/bench/growth_import.py [--packed N ...] [--png N ...] [--size 32] [--speed N] [--out FILE]

Each row is a process of its own. `synth` draws tiles straight into packed shards; `import` packs a folder of PNG files.
Memory is what the driver's peak is above what it had after its imports, and the peaks of its workers; CPU seconds are
of all of them. `--speed` imports so many tiles on one core and on all, in turn.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPEATS = 3
"""Imports on each number of cores."""
LOOK_S = 0.2
"""Seconds between two looks at the workers' memory, whose peaks the kernel keeps as long as they live."""


def peak(pid: int | str, field: str = "VmHWM") -> float:
    """Peak memory of a process in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{field}:")), 0.0)


def watch(peaks: dict[str, float], done: threading.Event) -> None:
    """Keep the peak of each child of this process."""
    while not done.wait(LOOK_S):
        for task in Path("/proc/self/task").iterdir():
            try:
                children = (task / "children").read_text().split()
            except OSError:
                continue
            for pid in children:
                peaks[pid] = max(peaks.get(pid, 0), peak(pid))


def measure(kind: str, tiles: int, size: int, place: str) -> dict[str, Any]:
    """One row, in this process."""
    import saltray
    from saltray.data.packing import open_packed
    from saltray.storage.uri import open_store

    store = f"{place}/store-{kind}-{tiles}-{os.getpid()}"
    list(open_store(store).list())  # what is loaded on first use
    import pyarrow.parquet  # noqa: F401

    base, peaks, done = peak("self", "VmRSS"), dict[str, float](), threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, done))
    watcher.start()
    started = time.monotonic()
    if kind == "synth":
        uri = saltray.synth(store, tiles=tiles, size=size, packed=True)
        assert uri
    else:
        assert len(open_packed(f"{place}/png-{tiles}", open_store(store))) == tiles
    seconds = time.monotonic() - started
    done.set()
    watcher.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    disk = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    shutil.rmtree(store)
    driver = peak("self") - base
    return {
        "kind": kind,
        "tiles": tiles,
        "size": size,
        "driver_mb": round(driver, 1),
        "driver_bytes_per_image": round(driver * 1e6 / tiles),
        "workers": len(peaks),
        "worker_mb": round(max(peaks.values(), default=0.0), 1),
        "cpu_s": round(cpu, 2),
        "cpu_us_per_image": round(cpu * 1e6 / tiles),
        "seconds": round(seconds, 2),
        "disk_bytes_per_image": round(disk / tiles),
    }


def row(kind: str, tiles: int, size: int, place: str, cores: int | None = None) -> dict[str, Any]:
    """One row, in a process of its own, which may use so many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    code = f"import json, growth_import as g; print(json.dumps(g.measure({kind!r}, {tiles}, {size}, {place!r})))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def show(rows: list[dict[str, Any]]) -> None:
    """Rows as a table."""
    for at, each in enumerate(rows):
        if at == 0 or rows[at - 1].keys() != each.keys():
            print("  ".join(name.rjust(max(8, len(name))) for name in each), flush=True)
        print("  ".join(str(value).rjust(max(8, len(name))) for name, value in each.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=int, nargs="*", default=[4_000, 40_000, 400_000, 1_000_000])
    parser.add_argument("--png", type=int, nargs="*", default=[4_000, 40_000])
    parser.add_argument("--size", type=int, default=32, help="height and width of a tile")
    parser.add_argument("--speed", type=int, default=40_000, help="tiles to import on one core and on all; 0 for none")
    parser.add_argument("--place", default=tempfile.gettempdir(), help="folder with room for the tiles")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    from saltray.data.synthetic import write_dataset

    rows, speeds = [], dict[int, list[float]]()
    with tempfile.TemporaryDirectory(prefix="saltray-growth-", dir=args.place) as place:
        for tiles in sorted({*args.png, *([args.speed] if args.speed else [])}):
            write_dataset(f"{place}/png-{tiles}", tiles=tiles, test_tiles=0, size=args.size)
        for kind, counts in (("synth", args.packed), ("import", args.png)):
            for tiles in counts:
                rows.append(row(kind, tiles, args.size, place))
                show(rows[-1:])
        cores = len(os.sched_getaffinity(0))
        for _ in range(REPEATS if args.speed and cores > 1 else 0):
            for used in (1, cores):
                speeds.setdefault(used, []).append(row("import", args.speed, args.size, place, used)["seconds"])
    medians = {used: statistics.median(seconds) for used, seconds in speeds.items()}
    if medians:
        one, all_cores = medians[1], medians[max(medians)]
        print(f"import of {args.speed:,} tiles: {one:.1f} s on 1 core, {all_cores:.1f} s on {max(medians)}; ", end="")
        print(f"{one / all_cores:.2f} times as fast (medians of {REPEATS}: {speeds})")
    if args.out:
        Path(args.out).write_text(json.dumps({"rows": rows, "speed": speeds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
