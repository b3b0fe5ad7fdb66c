"""Wrong command lines: one line with what is wrong, its value and a remedy, and exit code 2."""

from pathlib import Path

import pytest
from command import Saltray, check_refusal
from tyro import _errors as tyro_errors
from tyro.extras import SubcommandApp

from saltray.cli.app import make_app
from saltray.config import Config
from saltray.runs.records import RunManifest
from saltray.storage.uri import open_store

from .conftest import Call


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian", "saltray has no verb 'trian'; did you mean saltray train?"),
        ("range_tset --data d", "saltray has no verb 'range_tset'; did you mean saltray range-test?"),
        ("verify x", "saltray has no verb 'verify'; did you mean saltray ensemble verify?"),
        ("ensemble lst", "ensemble has no verb 'lst'; did you mean saltray ensemble list?"),
        ("config dif a b", "config has no verb 'dif'; did you mean saltray config diff?"),
        ("quite-another", "saltray has no verb 'quite-another'; `saltray --help` lists what there is"),
        ("--foo", "saltray has no flag --foo; `saltray --help` lists all verbs"),
        ("train --data d --train.epcohs 3", "train has no flag --train.epcohs; did you mean --train.epochs?"),
        ("train --epcohs=3", "train has no flag --epcohs; did you mean --train.epochs?"),
        ("train --data d --lr 1", "train has no flag --lr; did you mean --optim.lr?"),
        (
            "train --data d --train.batch_sise 3",
            "train has no flag --train.batch_sise; did you mean --train.batch-size?",
        ),
        ("plan --data d --no-scse", "plan has no flag --no-scse; did you mean --model.no-scse?"),
        ("predict --ensembel e", "predict has no flag --ensembel; did you mean --ensemble?"),
        (
            "ensemble show x --stroe s",
            "ensemble show has no flag --stroe; did you mean --store, a flag of train, pretrain, ",
        ),
        ("check x --quite-another", "check has no flag --quite-another; `saltray check --help-all` lists all flags"),
        (
            "train --data d --search.seed 3",
            "train has no flag --search.seed, which is a flag of tune, run and config show; leave it out, or use one",
        ),
        (
            "tune --data d --only-folds=0",
            "tune has no flag --only-folds, which is a flag of train; leave it out, or use that verb",
        ),
        (
            "ensemble show x --tile t",
            "ensemble show has no flag --tile, which is a flag of report; leave it out, or use that verb",
        ),
        (
            "train --data d --search.sed 3",
            "train has no flag --search.sed; did you mean --search.seed, a flag of tune, run and config show?",
        ),
        ("train --data d --workers 3", "train has no flag --workers; did you mean --workers-per-fold?"),
        ("train --data d --seed 3", "train has no flag --seed; did you mean --folds.seed?"),
        ("train tiles", "train takes no 'tiles' without a flag before it; `saltray train --help-all` lists all flags"),
        ("train", "train needs --data; `saltray train --help` explains it"),
        ("predict", "predict needs --ensemble and --data; `saltray predict --help` explains it"),
        ("check", "check needs DATA; `saltray check --help` explains it"),
        ("train --data d --run", "--run has no value; `saltray train --help-all` explains it"),
        ("train --data d --train.epochs many", "--train.epochs is 'many'; it takes INT"),
        ("train --data d --optim.lr fast", "--optim.lr is 'fast'; it takes FLOAT"),
        (
            "train --data d --model.architecture unett",
            "--model.architecture is 'unett'; use one of albunet, ternausnet, unet; did you mean unet?",
        ),
        ("predict --ensemble e --data d --part x", "--part is 'x'; use one of test, train"),
        ("train --data d --recipe bset", "there is no recipe 'bset'; there are blog, fast, best; did you mean best?"),
        ("--tyro-print-completion", "--tyro-print-completion is ''; use one of bash, zsh, tcsh, fish"),
        ("--tyro-write-completion csh x", "--tyro-write-completion is 'csh'; use one of bash, zsh, tcsh, fish"),
    ],
)
def test_a_mistake_is_told_in_one_line(saltray: Saltray, calls: list[Call], words: str, told: str) -> None:
    answer = saltray(*words.split())
    check_refusal(answer, told)
    assert answer.err.startswith(f"saltray: {told}")
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert calls == []


@pytest.mark.parametrize(
    "words",
    [
        "status --store s --run trunk2",
        "compare trunk2 x --store s",
        "train --config s/runs/trunk2",
        "config show --config s/runs/trunk2",
        "config diff s/runs/trunk2 best",
    ],
)
def test_a_run_that_may_have_been_meant_is_named(
    saltray: Saltray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = RunManifest(run="trunk", config=Config(data="d"), identity="a" * 64, dataset="b" * 64, provenance={})
    open_store("s").put_record("runs/trunk/manifest.json", manifest)
    check_refusal(saltray(*words.split()), "no run trunk2 in ", "; there are trunk; did you mean trunk?")


@pytest.mark.parametrize(
    "words",
    [
        "predict --data d --ensemble {}",
        "serve --ensemble {}",
        "export {}",
        "ensemble show {}",
        "ensemble verify {}",
        "train --data d --config {}",
        "config diff best {}",
    ],
)
def test_an_ensemble_that_may_have_been_meant_is_named(saltray: Saltray, ensemble: str, words: str) -> None:
    near = f"{ensemble.removesuffix('/e')}/ee"
    Path(ensemble).rename(near)
    check_refusal(saltray(*words.format(f"{near}f").split()), f"no complete ensemble at {near}f; did you mean {near}?")


def test_what_is_used_of_tyro_is_there() -> None:
    """It is private: another version of tyro may lack it."""
    for name in ("MissingArgs", "UnrecognizedArgs", "InvalidChoice", "BadValue", "InstantiationFailure"):
        assert issubclass(getattr(tyro_errors, name), tyro_errors.ParseErrorEvent)
    assert callable(tyro_errors.on_parse_error)
    targets = {name: command.target for name, command in make_app([])._subcommands.items()}
    assert callable(targets["train"])
    assert isinstance(targets["ensemble"], SubcommandApp)


def test_a_flag_that_a_description_mentions_is_none_of_its_verb(saltray: Saltray) -> None:
    """`run` has --name, and its help of --config names --run."""
    answer = saltray("check", "x", "--run", "r1")
    check_refusal(answer, "which is a flag of train, pretrain, tune, range-test, plan, status and config show;")
