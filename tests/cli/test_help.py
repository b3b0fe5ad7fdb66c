"""The help: few settings first, examples that work, and the width of a terminal."""

import itertools
import re
import shlex
from collections.abc import Callable

import pytest
from command import Saltray

from saltray.cli.app import GROUPS, VERBS
from saltray.cli.flags import kinds_of
from saltray.cli.help import GENERAL, SHOWN, examples
from saltray.config import Config
from saltray.records import field_types

FLAGS = [f"--{name.removeprefix('cluster.').replace('_', '-')}" for name in field_types(Config)]
FEW = "--data --store --run --recipe --config --train.epochs --train.batch-size --train.input-size --optim.lr"
FEW += " --workers-per-fold --gpus-per-worker --model.architecture --model.weights"


def flags_in(help_text: str) -> set[str]:
    """The flags that have a row."""
    return set(re.findall(r"(?:^[│ ] |, )(--[a-z][a-z._-]+)", help_text, re.MULTILINE))


@pytest.mark.parametrize("columns", ["80", "160"])
@pytest.mark.parametrize("verb", ["", *GROUPS, *VERBS])
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_help_fits_a_terminal(
    saltray: Saltray, monkeypatch: pytest.MonkeyPatch, verb: str, columns: str, flag: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    answer = saltray(*verb.split(), flag)
    assert (answer.code, answer.err) == (0, "")
    usage, *lines = answer.out.splitlines()
    assert usage.startswith(f"usage: saltray {verb}".rstrip())
    assert max(map(len, lines)) <= int(columns)
    assert "None" not in answer.out  # `unset`, which the command line takes


def test_the_help_shows_few_settings_and_says_how_to_see_all(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    few, everything = saltray("train", "--help").out, saltray("train", "--help-all").out
    assert flags_in(few) == {*FEW.split(), "--from-search", "--only-folds", "--verbose", "--help"}
    assert set(FLAGS) < flags_in(everything)
    assert few.splitlines()[-1] == "`saltray train --help-all` shows all settings."
    assert "--help-all" not in everything


@pytest.mark.parametrize("verb", [verb for verb in VERBS if not kinds_of(VERBS[verb])])
def test_the_help_of_other_verbs_is_whole(saltray: Saltray, verb: str) -> None:
    assert saltray(*verb.split(), "-h") == saltray(*verb.split(), "--help-all")


def test_what_is_shown_of_a_class_is_there() -> None:
    for kind, names in SHOWN.items():
        assert set(names) <= set(kind.__dataclass_fields__)


def test_the_help_has_the_defaults_of_a_recipe(saltray: Saltray) -> None:
    assert "(default: 250)" in saltray("train", "--recipe", "best", "--help").out


@pytest.mark.parametrize("words", [[], ["ensemble"], ["config"]])
def test_without_a_verb_the_help_is_shown(saltray: Saltray, words: list[str]) -> None:
    assert saltray(*words) == saltray(*words, "--help")


@pytest.mark.parametrize(("verb", "function"), VERBS.items())
def test_the_examples_of_a_verb_are_shown_and_work(
    saltray: Saltray, monkeypatch: pytest.MonkeyPatch, verb: str, function: Callable[..., None]
) -> None:
    lines = examples(function).splitlines()
    assert 1 <= len(lines) <= 3
    assert all(f"  {line}\n" in saltray(*verb.split(), "--help").out for line in lines)
    assert any(line.startswith(f"saltray {verb}") for line in lines)
    check_examples(saltray, lines)


def test_the_examples_of_the_whole_work(saltray: Saltray) -> None:
    assert GENERAL in saltray("--help").out
    check_examples(saltray, re.findall("^  (saltray .*)", GENERAL, re.MULTILINE))


def check_examples(saltray: Saltray, lines: list[str]) -> None:
    """They have no flag that there is not, and a value for each."""
    for line in lines:
        command, *words = shlex.split(line.partition(" > ")[0])
        if command == "saltray":
            verb = 2 if words[0] in GROUPS else 1
            known = saltray(*words[:verb], "--help-all").out
            assert "usage" in known
            assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z._-]+", known)), line


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_verbs_and_flags(saltray: Saltray, shell: str) -> None:
    answer = saltray("--tyro-print-completion", shell)
    assert (answer.code, answer.err) == (0, "")
    for word in ("range-test", "--model.architecture", "ternausnet", "--search.space"):
        assert word in answer.out
    assert "--tyro-print-completion" in GENERAL
    assert shell in GENERAL


@pytest.mark.parametrize("verb", ["train", "run", "predict"])
def test_help_breaks_a_line_only_where_it_is_full(saltray: Saltray, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        line.replace("│", " ")[2:].rstrip()
        for line in saltray(verb, "--help").out.partition("examples:")[0].splitlines()[4:]
    ]
    rules = (len(row) if row and not row.strip("-─") else 0 for row in rows)
    widths = itertools.accumulate(rules, lambda before, rule: rule or before)  # of the panel that each row is in
    continued = [
        (row, after, width)
        for (row, after), width in zip(itertools.pairwise(rows), widths, strict=False)
        if after.startswith(" " * 10) and (row.startswith(" ") or "  " in row)
    ]
    assert len(continued) > 3
    for row, after, width in continued:
        assert len(row) + 1 + len(after.split()[0]) > width, row
