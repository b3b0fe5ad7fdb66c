"""How long does the demo take? `uv run python tests/bench/demo.py [BEFORE] [--rounds 3]`.

Runs `saltray demo` from nothing, each time in a new folder: as it is, with the plain decoder that it once had, and, if
BEFORE is given, that of another checkout with its environment in .venv; in turn. Prints a Markdown table, medians of
all rounds: seconds until all folds have ended their first epoch, seconds in all, and the mean score of
the folds at a probability of 0.5.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).parents[2]
FIRST_EPOCH = re.compile(r"fold (\d+)  epoch +1/")
SCORE = re.compile(r"fold \d+  done  score (0\.\d+)")
PLAIN = """
import sys
from dataclasses import replace
from saltray.cli.app import main
from saltray.commands import demo
from saltray.recipes import PLAIN_DECODER as plain

whole = demo.demo_config

def plain_demo(*args):
    config = whole(*args)
    parts = {name: getattr(plain, name) for name in ("decoder_batchnorm", "deep_supervision")}
    return replace(config, model=replace(config.model, **parts))

demo.demo_config = plain_demo
sys.argv = ["saltray", "demo"]
main()
"""
"""The demo of this checkout with another network."""


def run(command: Sequence[str]) -> tuple[float, float, float]:
    """Seconds until all folds have ended an epoch, seconds in all, and the folds' mean score."""
    begun = time.monotonic()
    folds: set[str] = set()
    first = 0.0
    lines: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if (match := FIRST_EPOCH.match(line)) and match[1] not in folds:
                folds.add(match[1])
                first = time.monotonic() - begun
    if process.returncode:
        sys.exit("\n".join(lines))
    return first, time.monotonic() - begun, mean(float(match[1]) for line in lines if (match := SCORE.match(line)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways = {
        "now": [str(HERE / ".venv/bin/saltray"), "demo"],
        "now, plain decoder": [str(HERE / ".venv/bin/python"), "-c", PLAIN],
    }
    if options.before:
        ways = {"before": [str(options.before.absolute() / ".venv/bin/saltray"), "demo"]} | ways
    rounds: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, command in ways.items():
            rounds[way].append(run(command))
            print(f"{way}: {rounds[way][-1]}", file=sys.stderr, flush=True)
    print("| demo | s until all folds have ended an epoch | s in all | score |\n|---|---:|---:|---:|")
    for way, measured in rounds.items():
        first, whole, score = (median(each) for each in zip(*measured, strict=True))
        print(f"| {way} | {first:.1f} | {whole:.1f} | {score:.4f} |")


if __name__ == "__main__":
    main()
