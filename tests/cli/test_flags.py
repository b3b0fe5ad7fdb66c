"""Flags: what they mean, those that had another name, the settings of a file below them, and the help."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from command import Saltray, check_refusal

from saltray import recipes
from saltray.cli.flags import RENAMED, without
from saltray.config import (
    ClusterConfig,
    Config,
    PretrainConfig,
    SearchConfig,
    TrainConfig,
    choice,
)
from saltray.runs.records import RunManifest
from saltray.storage.uri import open_store

from .conftest import CONFIG, SEARCH, Call

settings: Any = dataclasses.asdict
"""Those of a configuration, whether or not its class is that of the flags."""


# From the command line alone


def test_a_verb_without_flags_has_the_defaults_of_the_settings(saltray: Saltray, calls: list[Call]) -> None:
    for verb in ("train", "tune", "run", "range-test", "plan"):
        assert saltray(verb, "--data", "d").code == 0
    for call in calls:
        assert call.args[0] == Config(data="d")
    for call in calls[1:3]:
        assert settings(call.args[1]) == settings(SearchConfig())
    assert [call.rest for call in calls] == [
        {"from_search": None, "only_folds": None},
        {},
        {},
        {"name": "s1", "fold": 0, "low": 1e-5, "high": 1.0, "steps": 100},
        {"on": None, "images_per_second": None, "like": None},
    ]


def test_every_search_flag_reaches_the_search(saltray: Saltray, calls: list[Call]) -> None:
    flags = "--search.trials 4 --search.folds 0 1 --search.name s7 --search.no-prune --search.seed 3 --search.epochs 12"
    words = [*flags.split(), "--search.space", "optim.lr=log:1e-5:1e-2", "train.batch_size=16,32"]
    assert saltray("tune", "--data", "d", *words, "--search.sampler", "tpe", "--search.concurrent", 2).code == 0
    ((_, search),) = (call.args for call in calls)
    assert settings(search) == settings(dataclasses.replace(SEARCH, sampler="tpe", concurrent=2))


@pytest.mark.parametrize(
    ("words", "verb", "meant"),
    [
        ("tune --data d --trials 3", "tune", {"trials": 3}),
        ("run --data d --trials=3 --name r7", "run", {"trials": 3}),
        ("tune --data d --search.concurrent unset --search.no_prune", "tune", {"prune": False}),
    ],
)
def test_short_and_other_spellings(
    saltray: Saltray, calls: list[Call], words: str, verb: str, meant: dict[str, Any]
) -> None:
    assert saltray(*words.split()).code == 0
    ((called, (config, search), _),) = calls
    assert called == verb
    assert settings(search) == settings(SearchConfig(**meant))
    assert config.run == ("r7" if "r7" in words else "r1")


def test_the_hardware_has_flags_without_a_prefix(saltray: Saltray, calls: list[Call]) -> None:
    flags = "--workers-per-fold 2 --gpus-per-worker 0 --cpus-per-worker .5 --max-failures 0"
    assert saltray("train", "--data", "d", *flags.split(), "--from-search", "searches/s1").code == 0
    cluster = ClusterConfig(workers_per_fold=2, gpus_per_worker=0, cpus_per_worker=0.5, max_failures=0)
    rest = {"from_search": "searches/s1", "only_folds": None}
    assert calls == [Call("train", (Config(data="d", cluster=cluster),), rest)]


def test_the_verbs_hand_over_their_own_flags(saltray: Saltray, calls: list[Call]) -> None:
    for words in (
        "demo --tiles 60",
        "synth x --tiles 3 --test-tiles 1 --seed 2 --noise 0",
        "synth --packed x --tiles 3 --size 32",
        "check x",
        "range-test --data d --name s7 --fold 2 --low 1e-4 --high 2 --steps 50",
        "pretrain --data d --pretrain.name p7 --pretrain.hidden .5 --pretrain.patch 8 --train.epochs 3",
        "plan --data d --on c.yaml --images-per-second 3",
        "plan --data d --like r0",
        "status --store s --run r1",
        "status --store s",
        "compare r1 r2 --store s --out x.png",
        "report s/runs/r1",
        "report s/runs/r1 --tile a b --out x.html",
        "predict --ensemble e --data d --out o --part train --masks m --probabilities p --no-tta --workers 2",
    ):
        assert saltray(*words.split()).code == 0
    config = Config(data="d")
    predict = {"ensemble": "e", "data": "d", "out": "o", "part": "train", "masks": "m"}
    assert calls == [
        Call("demo", ("saltray-demo",), {"picture": "demo.png", "tiles": 60}),
        Call("synth", ("x",), {"tiles": 3, "test_tiles": 1, "seed": 2, "noise": 0.0, "size": 101, "packed": False}),
        Call("synth", ("x",), {"tiles": 3, "test_tiles": None, "seed": 0, "noise": 1.0, "size": 32, "packed": True}),
        Call("check", ("x",), {}),
        Call("range_test", (config,), {"name": "s7", "fold": 2, "low": 1e-4, "high": 2.0, "steps": 50}),
        Call(
            "pretrain",
            (Config(data="d", train=TrainConfig(epochs=3)), PretrainConfig(name="p7", hidden=0.5, patch=8)),
            {},
        ),
        Call("plan", (config,), {"on": "c.yaml", "images_per_second": 3.0, "like": None}),
        Call("plan", (config,), {"on": None, "images_per_second": None, "like": "r0"}),
        Call("status", ("s", "r1"), {}),
        Call("list_runs", ("s",), {}),
        Call("list_pretrainings", ("s",), {}),
        Call("compare", ("r1", "r2"), {"store": "s", "out": "x.png"}),
        Call("write_report", ("s/runs/r1", None), {"tiles": ()}),
        Call("write_report", ("s/runs/r1", "x.html"), {"tiles": ("a", "b")}),
        Call("predict", (), {**predict, "probabilities": "p", "tta": False, "workers": 2}),
    ]


def test_a_file_may_have_a_pretraining(saltray: Saltray, calls: list[Call], tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("data = 'd'\n[pretrain]\nname = 'p7'\npatch = 8\n[search]\nname = 's7'")
    assert saltray("pretrain", "--config", path, "--pretrain.patch", 9).code == 0
    assert calls == [Call("pretrain", (Config(data="d"), PretrainConfig(name="p7", patch=9)), {})]


@pytest.mark.parametrize(("verb", "old", "new"), [(verb, *pair) for verb in RENAMED for pair in RENAMED[verb].items()])
@pytest.mark.parametrize("form", ["{} x", "{}=x"])
def test_a_renamed_flag_is_refused_by_its_new_name(
    saltray: Saltray, calls: list[Call], verb: str, old: str, new: str, form: str
) -> None:
    answer = saltray(verb, "--data", "d", *form.format(old).split())
    check_refusal(answer, f"saltray: {old} is now {new}; use that")
    assert len(answer.err.splitlines()) == 1
    assert calls == []
    if new.startswith("--"):
        assert new in saltray(verb, "--help-all").out
    else:
        assert saltray(new.rsplit(maxsplit=1)[-1], "--help").code == 0


def test_an_old_flag_with_underscores_is_refused_too(saltray: Saltray) -> None:
    check_refusal(saltray("train", "--data", "d", "--lr_from", "x"), "--lr-from is now --from-search")


def test_every_old_flag_is_there() -> None:
    """By hand, as the test above follows the table that it checks."""
    old = "--search --search-name --search-seed --search-epochs --folds --sampler --prune --no-prune --concurrent"
    search = set(old.split())
    loss = {"--train.bce", "--train.dice"}
    assert {verb: set(names) for verb, names in RENAMED.items()} == {
        "train": loss | {"--lr-from"},
        "tune": loss | search | {"--range-test"},
        "run": loss | search | {"--run"},
        "plan": loss,
        "range-test": loss,
    }


@pytest.mark.parametrize("verb", ["tune", "run"])
@pytest.mark.parametrize("first", ["--search.space optim.lr=1,2", "--search.space=optim.lr=1,2"])
def test_a_second_space_would_replace_the_first(saltray: Saltray, calls: list[Call], verb: str, first: str) -> None:
    answer = saltray(verb, "--data", "d", *first.split(), "--search.space", "loss.bce=0,1")
    check_refusal(answer, "--search.space is given twice", "separated by blanks")
    assert calls == []


@pytest.mark.parametrize("verb", ["train", "tune", "range-test", "run", "plan"])
def test_flags_and_a_file_win_over_a_recipe(saltray: Saltray, tmp_path: Path, calls: list[Call], verb: str) -> None:
    (tmp_path / "job.toml").write_text("recipe = 'blog'\n[train]\nepochs = 40\nbatch_size = 16")
    best, blog = recipes.best(data="d"), recipes.blog(data="d")
    assert saltray(verb, "--data", "d", "--recipe", "best").code == 0
    assert saltray(verb, "--data", "d", "--recipe=best", "--train.seed", 5).code == 0
    assert saltray(verb, "--data", "d", "--config", "job.toml", "--train.epochs", 5).code == 0
    assert saltray(verb, "--data", "d", "--config", "job.toml", "--recipe", "fast").code == 0
    assert saltray(verb, "--data", "d", "--config", "job.toml", "--recipe", "unset").code == 0
    file = {"epochs": 40, "batch_size": 16}
    assert [call.args[0] for call in calls] == [
        best,
        dataclasses.replace(best, train=dataclasses.replace(best.train, seed=5)),
        dataclasses.replace(blog, train=dataclasses.replace(blog.train, epochs=5, batch_size=16)),
        dataclasses.replace(recipes.fast(data="d"), train=TrainConfig(**file)),
        Config(data="d", train=TrainConfig(**file)),
    ]
    check_refusal(saltray(verb, "--data", "d", "--recipe", "bset"), "no recipe 'bset'; there are blog, fast, best")
    check_refusal(saltray(verb, "--data", "d", "--recipe", "best", "--recipe=blog"), "--recipe is given twice")


@pytest.mark.parametrize("words", ["--only-folds 0,2", "--only-folds=0,2", "--only-folds 0 2", "--only-folds 0, 2"])
def test_folds_are_separated_by_commas_or_blanks(saltray: Saltray, calls: list[Call], words: str) -> None:
    assert saltray("train", "--data", "d", *words.split(), "--run", "r7").code == 0
    assert saltray("tune", "--data", "d", *words.replace("only", "search").replace("-f", ".f").split()).code == 0
    assert calls[0].rest["only_folds"] == calls[1].args[1].folds == (0, 2)
    for typed in (words, words.replace("-f", "_f")):  # tyro takes both
        assert without("--only-folds", ["train", *typed.split(), "--run", "r7"]) == ["train", "--run", "r7"]


def test_a_fold_is_a_number(saltray: Saltray, calls: list[Call]) -> None:
    answer = saltray("train", "--data", "d", "--only-folds", "0,first")
    assert answer.code == 2
    assert "'first'" in answer.err
    assert calls == []


# From a file


def test_flags_win_over_a_file(saltray: Saltray, job: Path, calls: list[Call]) -> None:
    assert saltray("train", "--config", job).code == 0
    flags = ("--train.epochs", 5, "--train.sync-batchnorm", "--data", "other", "--run", "r8")
    assert saltray("train", *flags, f"--config={job}").code == 0
    assert saltray("train", "--config", job, "--workers-per-fold=1").code == 0
    train = TrainConfig(epochs=5, batch_size=64)
    assert [call.args[0] for call in calls] == [
        CONFIG,
        dataclasses.replace(CONFIG, data="other", run="r8", train=train),
        dataclasses.replace(CONFIG, cluster=ClusterConfig()),
    ]
    assert type(calls[0].args[0].optim.clip_norm) is float  # 1 and 1.0 would be different runs


@pytest.mark.parametrize("verb", ["tune", "run"])
def test_a_search_takes_its_settings_from_a_file(saltray: Saltray, job: Path, calls: list[Call], verb: str) -> None:
    assert saltray(verb, "--config", job).code == 0
    flags = ("--search.folds", 1, "--search.prune", "--trials", 9, "--search.epochs", "unset")
    assert saltray(verb, "--config", job, *flags, "--search.space", "optim.lr=1,2").code == 0
    assert [call.args[0] for call in calls] == [CONFIG, CONFIG]
    changed = dataclasses.replace(SEARCH, folds=(1,), prune=True, trials=9, epochs=None)
    assert [settings(call.args[1]) for call in calls] == [
        settings(SEARCH),
        settings(dataclasses.replace(changed, space={"optim.lr": choice([1.0, 2.0])})),
    ]


@pytest.mark.parametrize("verb", ["train", "range-test", "plan"])
def test_without_a_search_its_settings_say_nothing(saltray: Saltray, job: Path, calls: list[Call], verb: str) -> None:
    assert saltray(verb, "--config", job).code == 0
    ((_, args, rest),) = calls
    assert args == (CONFIG,)
    assert rest.get("name", "s1") == "s1"
    job.write_text("data = 'd'\n[search]\nthis = 'is not checked'")
    assert saltray(verb, "--config", job).code == 0
    check_refusal(saltray("tune", "--config", job), "this is unknown")


def test_a_run_is_named_by_the_file_or_by_name(saltray: Saltray, job: Path, calls: list[Call]) -> None:
    assert saltray("run", "--config", job).code == 0
    assert saltray("run", "--config", job, "--name", "r8").code == 0
    assert [call.args[0].run for call in calls] == ["r7", "r8"]


def test_a_file_may_leave_data_to_the_command_line(saltray: Saltray, tmp_path: Path, calls: list[Call]) -> None:
    (tmp_path / "job.toml").write_text("run = 'r7'")
    answer = saltray("train", "--config", "job.toml")
    assert answer.code == 2
    assert "--data" in answer.err
    assert saltray("train", "--config", "job.toml", "--data", "d").code == 0
    assert [call.args[0] for call in calls] == [Config(data="d", run="r7")]


@pytest.mark.parametrize(
    ("text", "flag", "value", "named"),
    [
        ("workers_per_fold = 3", "--train.batch-size", 33, "is not divisible by the number of workers, 3"),
        ("[train]\nbatch_size = 33", "--workers-per-fold", 3, None),
        ("[train]\nbatch_size = 33\n[cluster]\nworkers_per_fold = 2", "--workers-per-fold", 3, "number of workers, 2"),
        ("[model]\narchitecture = 'ternausnet'\n[train]\ninput_size = 96", "--folds.count", 2, None),
        (
            "[model]\nencoder = 'vgg11'",
            "--model.architecture",
            "ternausnet",
            "vgg11, but albunet takes one of resnet34",
        ),
        ("[train]\ninput_size = 96", "--model.architecture", "ternausnet", "needs a multiple of 64"),
    ],
)
def test_settings_are_checked_once_file_and_flags_are_together(
    saltray: Saltray, tmp_path: Path, calls: list[Call], text: str, flag: str, value: object, named: str | None
) -> None:
    (tmp_path / "job.toml").write_text(f"data = 'd'\n{text}")
    if named is not None:
        check_refusal(saltray("train", "--config", "job.toml"), named)
    assert saltray("train", "--config", "job.toml", flag, value).code == 0
    ((_, (config,), _),) = calls
    assert type(config) is Config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[train]\nepoch = 5", ["train.epoch is unknown", "did you mean train.epochs?"]),
        ("config_file = 'x'", ["config_file is unknown"]),
        ("[search.space]\noptim.lrr = [1]", ["optim.lrr", "did you mean optim.lr?"]),
        ("[train", ["is not TOML"]),
    ],
)
def test_a_wrong_file_is_named(
    saltray: Saltray, tmp_path: Path, calls: list[Call], text: str, named: list[str]
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    check_refusal(saltray("run", "--data", "x", "--config", "bad.toml"), "bad.toml", *named)
    assert calls == []


def test_a_run_is_resumed_or_repeated_from_its_own_manifest(
    saltray: Saltray, tmp_path: Path, calls: list[Call]
) -> None:
    stored = dataclasses.replace(CONFIG, store="elsewhere", recipe="best-0")
    manifest = RunManifest(run="r7", config=stored, identity="a" * 64, dataset="b" * 64, provenance={})
    open_store("store").put_record("runs/r7/manifest.json", manifest)
    assert saltray("train", "--config", "store/runs/r7").code == 0
    assert saltray("train", "--config=store/runs/r7/manifest.json", "--run", "r8", "--train.epochs", 5).code == 0
    assert saltray("run", "--config", "store/runs/r7", "--name", "r8", "--store", "other").code == 0
    here = dataclasses.replace(stored, store="store")
    train = dataclasses.replace(stored.train, epochs=5)
    assert [call.args[0] for call in calls] == [
        here,
        dataclasses.replace(here, run="r8", train=train),
        dataclasses.replace(here, run="r8", store="other"),
    ]
    answer = saltray("train", "--config", "store/runs/r7", "--recipe", "best")
    check_refusal(answer, "store/runs/r7 gives all settings", "leave --recipe out")
    check_refusal(saltray("train", "--data", "d", "--recipe", "best-0"), "there is no recipe 'best-0'")


def test_one_file_at_most(saltray: Saltray, job: Path, calls: list[Call]) -> None:
    check_refusal(saltray("train", "--config", job, f"--config={job}"), "--config is given twice")
    check_refusal(saltray("train", "--config", "none.toml"), "there is no file", "none.toml; did you mean job.toml?")
    assert saltray("train", "--config").code == 2
    assert "--config" in saltray("check", "x", "--config", job).err
    assert calls == []
