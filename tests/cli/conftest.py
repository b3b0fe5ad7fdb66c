"""A small data set and its corruptions, an ensemble, and what the verbs call in place of the calls."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import pytest
from command import WAIT_S
from PIL import Image
from rich.console import Console
from samples import ensemble_manifest

import saltray as library
from saltray.cli import plan, status, tables
from saltray.cli.console import observer as terminal
from saltray.config import ClusterConfig, Config, OptimConfig, SearchConfig, TrainConfig, choice, loguniform
from saltray.data.synthetic import write_dataset
from saltray.storage.base import Store
from saltray.storage.uri import open_store

SMALL = (
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--train.batch-size", "4", "--folds.count", "2"),
    *("--train.precision", "fp32", "--train.checkpoint-every", "0"),
)
"""Flags of a thin network in short folds, which writes a checkpoint each epoch."""
JOB = """
data = "tiles"
store = "s3://bucket/salt"
run = "r7"
workers_per_fold = 2

[search]
trials = 4
folds = [0, 1]
name = "s7"
prune = false
seed = 3
epochs = 12

[search.space]
optim.lr = "log:1e-5:1e-2"
"train.batch_size" = [16, 32]

[train]
epochs = 100
batch-size = 64
sync_batchnorm = false

[optim]
clip_norm = 1
"""
CONFIG = Config(
    data="tiles",
    store="s3://bucket/salt",
    run="r7",
    train=TrainConfig(epochs=100, batch_size=64, sync_batchnorm=False),
    optim=OptimConfig(clip_norm=1.0),
    cluster=ClusterConfig(workers_per_fold=2),
)
SEARCH = SearchConfig(
    trials=4,
    folds=(0, 1),
    name="s7",
    prune=False,
    seed=3,
    epochs=12,
    space={"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([16, 32])},
)
"""What `JOB` means, to a run and to a search."""
VERBS = (
    "demo",
    "synth",
    "check",
    "train",
    "pretrain",
    "tune",
    "range_test",
    "run",
    "plan",
    "status",
    "list_runs",
    "list_pretrainings",
    "compare",
    "write_report",
    "predict",
)


def make_console(
    *, width: int = 1000, height: int = 50, terminal: bool = False, encoding: str = "utf-8", color: bool = True
) -> Console:
    """A console like that of the command line, whose text is kept."""
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding, write_through=True),
        record=True,
        force_terminal=terminal,
        color_system="standard" if color and terminal else None,
        width=width,
        height=height,
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def rows_of(console: Console) -> list[list[str]]:
    """The cells of each row of the tables, without their frames, and each other line as one cell."""
    lines = console.export_text(clear=False).splitlines()
    cut = [[cell.strip() for cell in line.strip("│┃").split("┃" if "┃" in line else "│")] for line in lines]
    return [row for row in cut if not set("".join(row)) <= set("━─┏┓┗┛┡┩└┘├┤┬┴┼╇┳╈ ")]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A file with settings of a run and of a search."""
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


class Call(NamedTuple):
    """What a function of the library was called with, but for the observer."""

    verb: str
    args: tuple[Any, ...]
    rest: dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight training tiles and two test tiles in the Kaggle layout, to be corrupted."""
    return write_dataset(tmp_path / "data", tiles=8, seed=1, test_tiles=2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the verbs called, in place of the calls; nothing is printed of the results."""
    calls: list[Call] = []

    def stand_in(verb: str) -> Callable[..., MagicMock]:
        def call(*args: Any, observer: object = terminal, **rest: Any) -> MagicMock:
            assert observer is terminal
            calls.append(Call(verb, args, rest))
            return MagicMock()

        return call

    for verb in VERBS:
        monkeypatch.setattr(library, verb, stand_in(verb), raising=False)
    for module in (tables, plan, status):
        for name in [name for name in vars(module) if name.startswith("print_")]:
            monkeypatch.setattr(module, name, lambda *args: None)
    return calls


@pytest.fixture
def ensemble(tmp_path: Path) -> str:
    """URI of an ensemble that is complete by its manifest; its one member is missing."""
    manifest = ensemble_manifest(name="e", run="e", config=Config(data="data"))
    uri = str(tmp_path / "store/ensembles/e")
    open_store(uri).put_record("v1/manifest.json", manifest)
    return uri


def first(data: Path, part: str) -> Path:
    return min((data / part).iterdir())


def shorten(data: Path) -> str:
    path = first(data, "train/images")
    path.write_bytes(path.read_bytes()[:60])
    return path.name


def resize_mask(data: Path) -> str:
    path = first(data, "train/masks")
    Image.fromarray(np.zeros((101, 102), np.uint8)).save(path)
    (data / "train.csv").unlink()  # it would disagree too
    return path.name


def grey_mask(data: Path) -> str:
    path = first(data, "train/masks")
    Image.fromarray(np.arange(101 * 101, dtype=np.uint32).reshape(101, 101).astype(np.uint8)).save(path)
    return path.name


def path_in_table(data: Path) -> str:
    table = data / "train.csv"
    table.write_text(table.read_text() + "../../etc/passwd,1 1\n")
    return "train.csv"


def path_in_zip(data: Path) -> str:
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        for path in (data / "train").rglob("*.png"):
            archive.write(path, path.relative_to(data / "train"))
        archive.writestr("images/../../escaped.png", first(data, "train/images").read_bytes())
    (data / "train").rename(data / "unpacked")
    return "escaped.png"


CORRUPTIONS = (shorten, resize_mask, grey_mask, path_in_table, path_in_zip)
"""Each makes a data set unusable, and returns the name of the file at fault."""


def wait_for_checkpoint(home: Store) -> None:
    """Until there is a whole checkpoint below a fold or a search."""
    end = monotonic() + WAIT_S
    while monotonic() < end:
        if any(re.search(r"checkpoints/epoch-\d+/manifest\.json$", entry.key) for entry in home.list("")):
            return
        sleep(0.05)
    pytest.fail(f"no checkpoint in {home.uri}")


def trials(search: Store) -> list[str]:
    return [name for name in search.folders() if name.startswith("trial-")]


def values(search: Store) -> dict[str, bytes]:
    return {name: search.get(f"{name}/trial.json") for name in trials(search)}


def results(search: Store) -> dict[str, bytes | None]:
    """What is written of each trial that has ended."""
    keys = {name: f"{name}/result.json" for name in trials(search)}
    return {name: search.get(key) if search.exists(key) else None for name, key in keys.items()}
