"""Do two commits compute and store the same? `uv run python tests/bench/compare_commits.py BEFORE AFTER`.

BEFORE and AFTER are checkouts, each with its environment in .venv. Both run the demo, two folds of two ranks each, a
search of four trials and a prediction, on a folder and on an S3 server of this machine, in turn in the same working
folder. Weights, out-of-fold tables, data sets and submissions must be equal byte for byte; manifests, results and
histories must be equal but for times, versions of libraries and renamed settings. Exits with 1 where they are not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer
from stored import compared, content, download

BUCKET = "compare"
THIN = [
    *("--folds.count", "2", "--train.batch-size", "4", "--train.precision", "fp32", "--train.checkpoint-every", "0"),
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--optim.warmup-epochs", "0.5"),
]
SEARCH = ["--trials", "4", "--search.concurrent", "1", "--search.space", "optim.lr=log:1e-4:1e-1"]
# The flags of this script, as a commit before their renaming has them.
OLD_FLAGS = {
    "--search.concurrent": "--concurrent",
    "--search.space": "--search",
    "--search.name": "--search-name",
    "--from-search": "--lr-from",
}


def commands(store: str) -> Iterator[list[str]]:
    """What is run on a store, by its working folder."""
    yield ["train", "--data", "tiles", "--store", store, "--workers-per-fold", "2", "--train.epochs", "3", *THIN]
    yield ["tune", "--data", "tiles", "--store", store, "--train.epochs", "4", *SEARCH, *THIN]
    yield ["train", "--data", "tiles", "--store", store, "--run", "r2", "--from-search", "searches/s1", *THIN[:-2]]
    yield ["predict", "--data", "tiles", "--ensemble", f"{store}/ensembles/r1", "--out", "r1.csv"]


def run(checkout: Path, work: Path, environment: Mapping[str, str], *, old: bool) -> None:
    """All commands with one checkout's saltray, in `work`."""

    def saltray(*args: str) -> None:
        words = [OLD_FLAGS.get(word, word) if old else word for word in args]
        print(f"{checkout.name}$ saltray {' '.join(words)}", flush=True)
        command = [str(checkout / ".venv/bin/saltray"), *words]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}\n{done.stderr}\nexit code {done.returncode}")

    saltray("demo", "--tiles", "60")
    saltray("synth", "tiles", "--tiles", "24", "--test-tiles", "6")
    for store in ("store", f"s3://{BUCKET}/store"):
        for command in commands(store):
            saltray(*command)
        if store.startswith("s3://"):
            (work / "r1.csv").rename(work / "r1-s3.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--old-flags", action="store_true", help="BEFORE has the flags' names of saltray 0.1.0")
    parser.add_argument("--keep", type=Path, help="folder for what was stored; what is there is not made again")
    args = parser.parse_args()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    environment = {
        "AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ |= environment
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    keep = (args.keep or Path(tempfile.mkdtemp())).resolve()
    for side, checkout in (("before", args.before), ("after", args.after)):
        if (keep / side).exists():
            continue
        work = keep / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        run(checkout.resolve(), work, os.environ, old=side == "before" and args.old_flags)
        download(BUCKET, work / "s3")
        work.rename(keep / side)
    before, after = compared(keep / "before"), compared(keep / "after")
    only = sorted(before.keys() ^ after.keys())
    differing = [name for name in sorted(before.keys() & after.keys()) if content(before[name]) != content(after[name])]
    for name in only:
        print(f"only {'before' if name in before else 'after'}: {name}")
    for name in differing:
        print(f"differs: {name}")
    same = len(before.keys() & after.keys()) - len(differing)
    print(f"{same} objects equal, {len(differing)} differ, {len(only)} on one side only; kept in {keep}")
    sys.exit(bool(differing or only))


if __name__ == "__main__":
    main()
