"""What commands left in a store, as files, and what of it is equal from run to run."""

import json
from pathlib import Path
from typing import Any

import boto3
import pandas as pd

from saltray.storage.files import TEMP_PREFIX

NOT_COMPARED = ("/checkpoints/", "/lock/", "/tensorboard/", "snapshot", ".validate", "model-card", TEMP_PREFIX)
TIMES = {"at", "seconds", "started", "finished", "images_per_second", "provenance"}


def download(bucket: str, target: Path) -> None:
    """The bucket as files; it is emptied."""
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            path = target / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, item["Key"], str(path))
            client.delete_object(Bucket=bucket, Key=item["Key"])


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
    """The files to compare: all but Ray's own, checkpoints (they hold times), locks, drafts, pages and pictures.

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
