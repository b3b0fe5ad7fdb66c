"""Settings from a file: what they mean, which flags win, and what a wrong one is told."""

import dataclasses
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from command import Saltray, check_refusal
from conftest import BUCKET

import saltray as library
from saltray.cli import SearchFlags
from saltray.config import ClusterConfig, Config, ModelConfig, OptimConfig, TrainConfig, to_dict
from saltray.config_file import SEARCH, load_config
from saltray.distributed.search.space import loguniform
from saltray.errors import ConfigError, NotFoundError
from saltray.storage.names import open_store

JOB = """
data = "tiles"
store = "s3://bucket/salt"
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
MEANT = Config(
    data="tiles",
    store="s3://bucket/salt",
    train=TrainConfig(epochs=100, batch_size=64, sync_batchnorm=False),
    optim=OptimConfig(clip_norm=1.0),
    cluster=ClusterConfig(workers_per_fold=2),
)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, dict[str, Any]]]:
    """What `saltray.train`, `tune`, `range_test` and `run` were called with, in place of the calls."""
    calls: list[tuple[Config, dict[str, Any]]] = []
    for verb in ("train", "tune", "range_test", "run"):
        monkeypatch.setattr(library, verb, lambda config, **rest: calls.append((config, rest)), raising=False)
    return calls


def written(tmp_path: Path, text: str, name: str = "bad.toml") -> str:
    (tmp_path / name).write_text(text)
    return name


# From the command line


Called = list[tuple[Config, dict[str, Any]]]


def test_train_takes_the_file_and_flags_win(saltray: Saltray, job: Path, called: Called) -> None:
    assert saltray("train", "--config", job).code == 0
    assert (
        saltray("train", "--train.epochs", 5, "--train.sync-batchnorm", f"--config={job}", "--data", "other").code == 0
    )
    assert saltray("train", "--config", job, "--workers-per-fold=1", "--lr-from", "searches/s7").code == 0
    changed = dataclasses.replace(MEANT, data="other", train=TrainConfig(epochs=5, batch_size=64))
    assert called == [
        (MEANT, {"lr_from": None}),
        (changed, {"lr_from": None}),
        (dataclasses.replace(MEANT, cluster=ClusterConfig()), {"lr_from": "searches/s7"}),
    ]


def test_run_takes_the_search_from_the_file(saltray: Saltray, job: Path, called: Called) -> None:
    assert saltray("run", "--config", job, "--folds", 2, "--prune").code == 0
    ((config, rest),) = called
    assert config == MEANT
    assert {name: rest[name] for name in ("trials", "folds", "name", "prune", "seed", "epochs")} == {
        "trials": 4,
        "folds": (2,),
        "name": "s7",
        "prune": True,
        "seed": 3,
        "epochs": 12,
    }
    assert rest["space"]["optim.lr"] == loguniform(1e-5, 1e-2)
    assert rest["space"]["train.batch_size"].values == (16, 32)


def test_tune_makes_trials_as_long_as_those_of_run(saltray: Saltray, job: Path, called: Called) -> None:
    assert saltray("tune", "--config", job).code == 0
    assert saltray("tune", "--config", job, "--train.epochs", 7, "--search", "optim.lr=1,2").code == 0
    (first, _), (second, rest) = called
    assert (first.train.epochs, second.train.epochs) == (12, 7)
    assert list(rest["space"]) == ["optim.lr"]  # the file's fields are not added to those of the command line
    assert rest["name"] == "s7"


def test_a_range_test_searches_nothing(saltray: Saltray, job: Path, called: Called) -> None:
    assert saltray("tune", "--config", job, "--range-test", "--folds", 1).code == 0
    assert called[0][1] == {"name": "s7", "fold": 1}


def test_a_later_file_wins(saltray: Saltray, job: Path, tmp_path: Path, called: Called) -> None:
    more = written(tmp_path, "run = 'r9'\n[train]\nepochs = 3", "more.toml")
    assert saltray("train", "--config", job, "--config", more).code == 0
    assert (called[0][0].run, called[0][0].train.epochs, called[0][0].train.batch_size) == ("r9", 3, 64)


def test_what_json_calls_null_is_unset(saltray: Saltray, tmp_path: Path, called: Called) -> None:
    record = to_dict(MEANT) | {"search": {"concurrent": None, "epochs": None}}
    name = written(tmp_path, json.dumps(record), "job.json")
    assert saltray("run", "--config", name).code == 0
    assert saltray("tune", "--config", name).code == 0
    assert [config for config, _ in called] == [MEANT, MEANT]
    assert called[0][1]["concurrent"] is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[train]\nepoch = 5", ["train.epoch is no setting", "did you mean train.epochs?"]),
        ("[trian]\nepochs = 5", ["trian.epochs is no setting", "did you mean train.epochs?"]),
        ("trials = 5", ["trials is no setting", "search.trials"]),
        ("zzz = 5", ["zzz is no setting", "saltray train --help"]),
        ("train = 5", ["train is a table of settings", "train.epochs"]),
        ("folds = [0]", ["folds is a table of settings", "folds.count"]),
        ("[search]\nspace = 'optim.lr'", ["search.space is a table of settings"]),
        ("[train]\nepochs = 'ten'", ['train.epochs is "ten"', "a whole number"]),
        ("[train]\nepochs = 1.5", ["train.epochs is 1.5", "a whole number"]),
        ("[train]\nepochs = true", ["train.epochs is true", "a whole number"]),
        ("[optim]\nlr = '1e-3'", ['optim.lr is "1e-3"', "a number"]),
        ("[train]\nsync_batchnorm = 1", ["train.sync_batchnorm is 1", "true or false"]),
        ("[model]\nweights = 3", ["model.weights is 3", "text or null"]),
        ("[optim]\noptimizer = 'sgd'", ['optim.optimizer is "sgd"', "one of adam, adamw"]),
        ("[search]\nfolds = 0", ["search.folds is 0", "a list of whole numbers"]),
        ("[search]\nfolds = ['a']", ['search.folds is "a"', "a whole number"]),
        ("run = 2026-01-01", ['run is "2026-01-01"', "text"]),
        ("workers_per_fold = 1\n[cluster]\nworkers_per_fold = 2", ["cluster.workers_per_fold is given twice"]),
        ("[train", ["is not TOML", "correct it"]),
    ],
)
def test_a_wrong_setting_is_named(
    saltray: Saltray, tmp_path: Path, called: Called, text: str, named: list[str]
) -> None:
    check_refusal(saltray("run", "--data", "x", "--config", written(tmp_path, text)), "bad.toml", *named)
    assert called == []


def test_an_impossible_value_is_refused_unless_a_flag_mends_it(
    saltray: Saltray, tmp_path: Path, called: Called
) -> None:
    name = written(tmp_path, "data = 'x'\n[train]\nepochs = 0")
    check_refusal(saltray("train", "--config", name), "train.epochs is 0")
    assert saltray("train", "--config", name, "--train.epochs", 1).code == 0


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("none.toml", None, ["none.toml", "no such object"]),
        ("job.yaml", "run: r1", ["job.yaml", ".toml", ".json"]),
        ("job.json", "{", ["job.json", "is not JSON"]),
        ("job.json", "[]", ["job.json", "is no table of settings"]),
        ("job.json", "\xff", ["job.json"]),
    ],
)
def test_a_file_that_cannot_be_read(
    saltray: Saltray, tmp_path: Path, name: str, text: str | None, named: list[str]
) -> None:
    if text is not None:
        written(tmp_path, text, name)
    check_refusal(saltray("train", "--config", name), *named)


def test_only_the_verbs_that_train_have_it(saltray: Saltray, job: Path) -> None:
    assert "--config" in saltray("check", "x", "--config", job).err
    assert saltray("train", "--config").code == 2
