"""Do two commits compute and store the same? `uv run python tests/bench/compare_commits.py BEFORE AFTER`.

BEFORE and AFTER are checkouts, each with its environment in .venv. Both run the demo, two folds of two ranks each, a
search of four trials and a prediction, on a folder and on an S3 server of this machine, in turn in the same working
folder. Weights, out-of-fold tables, data sets and submissions must be equal byte for byte; manifests, results and
histories must be equal but for times, versions of libraries and renamed settings. Exits with 1 where they are not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
from moto.server import ThreadedMotoServer

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
NOT_COMPARED = ("/checkpoints/", "/lock/", "/tensorboard/", "snapshot", ".validate", "model-card")
TIMES = {"at", "seconds", "started", "finished", "images_per_second", "provenance"}


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


def download(target: Path) -> None:
    """The bucket as files; it is emptied."""
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            path = target / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, item["Key"], str(path))
            client.delete_object(Bucket=BUCKET, Key=item["Key"])


def without_times(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What of a file has to be equal."""
    match path.suffix:
        case ".json":
            return json.dumps(without_times(json.loads(path.read_text())), indent=1)
        case ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            return json.dumps([without_times(line) for line in lines if "epoch" in line], indent=1)
        case ".parquet" if path.name == "trials.parquet":
            return pd.read_parquet(path).drop(columns="seconds").to_csv()
        case _:
            return path.read_bytes()


def compared(root: Path) -> dict[str, Path]:
    """The files to compare: all but Ray's own, checkpoints (they hold times), locks, pages and pictures.

    A trial that ASHA stopped is killed, so its history and error depend on that moment; its result does not.
    """
    kept = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not path.is_file() or path.suffix in (".html", ".png") or any(part in name for part in NOT_COMPARED):
            continue
        result = path.with_name("result.json")
        stopped = path.name in ("history.jsonl", "error.txt") and '"status": "stopped"' in result.read_text()
        if not stopped:
            kept[name] = path
    return kept


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
        download(work / "s3")
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
