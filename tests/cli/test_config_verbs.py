"""The verbs of settings: what they print is what a file may hold."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from command import Saltray

import saltray as library
from saltray.config import Config, PretrainConfig, SearchConfig, TrainConfig


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_shown_is_read_as_the_same(saltray: Saltray) -> None:
    flags = ("--data", "t\u00efles :smile: [b]", "--train.epochs", 7, "--search.trials", 3, "--pretrain.patch", 8)
    answer = saltray("config", "show", *flags)
    assert (answer.code, answer.err) == (0, "")
    Path("job.toml").write_text(answer.out)
    config = Config(data="t\u00efles :smile: [b]", train=TrainConfig(epochs=7))
    assert library.load_config("job.toml") == config
    assert library.load_search_config("job.toml") == SearchConfig(trials=3)
    assert library.load_pretrain_config("job.toml") == PretrainConfig(patch=8)
    again = saltray("config", "show", "--config", "job.toml", "--run", "r8")
    Path("again.toml").write_text(again.out)
    assert library.load_config("again.toml") == replace(config, run="r8")
    assert library.load_search_config("again.toml") == SearchConfig(trials=3)


def test_a_recipe_is_shown_without_data(saltray: Saltray) -> None:
    record = tomllib.loads(saltray("config", "show", "--recipe", "best").out)
    assert "data" not in record
    assert (record["recipe"], record["train"]["epochs"]) == (library.recipes.best(data="d").recipe, 250)
    Path("job.toml").write_text("run = 'r7'\nrecipe = 'blog'")
    record = tomllib.loads(saltray("config", "show", "--config", "job.toml").out)
    assert "data" not in record
    assert (record["run"], record["train"]["epochs"]) == ("r7", 500)


def test_the_differences_are_a_table(saltray: Saltray) -> None:
    Path("job.toml").write_text("recipe = 'blog'\n[train]\nepochs = 7\nprecision = 'bf16'\n[model]\nscse = true")
    lines = saltray("config", "diff", "blog", "job.toml").out.splitlines()
    rows = [re.split(r" *[\u2502|] *", line)[1:-1] for line in lines]
    assert ["train.epochs", "500", "7"] in rows
    assert ["train.precision", "fp32", "bf16"] in rows
    assert ["model.scse", "false", "true"] in rows
    assert not any("unset" in row for row in rows)
    assert saltray("config", "diff", "blog", "blog").out == "blog and blog have the same settings\n"


def test_the_schema_is_json(saltray: Saltray) -> None:
    assert json.loads(saltray("config", "schema").out) == library.config_schema()
