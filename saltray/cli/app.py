"""The command line: its verbs by name, and how each of them ends."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text
from tyro.extras import SubcommandApp

import saltray
from saltray.cli.config_verbs import diff, schema, show_config
from saltray.cli.console import observer
from saltray.cli.data_verbs import check, demo, synth
from saltray.cli.ensemble_verbs import export, list_ensembles, predict, serve, show, verify
from saltray.cli.flags import REGISTRY, refuse_misused, with_file
from saltray.cli.help import asks_for_help, show_help
from saltray.cli.mistakes import refuse_unknown_shell, refuse_unknown_verb, told_in_one_line
from saltray.cli.run_verbs import compare, plan, pretrain, range_test, report, run, status, train, tune
from saltray.cli.signals import Interrupted, Interrupter
from saltray.errors import DataError, SaltrayError, SearchFailedError

PROBLEMS_SHOWN = 50
VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "synth": synth,
    "check": check,
    "train": train,
    "pretrain": pretrain,
    "tune": tune,
    "range-test": range_test,
    "run": run,
    "plan": plan,
    "status": status,
    "compare": compare,
    "report": report,
    "predict": predict,
    "serve": serve,
    "export": export,
    "ensemble list": list_ensembles,
    "ensemble show": show,
    "ensemble verify": verify,
    "config show": show_config,
    "config diff": diff,
    "config schema": schema,
}
GROUPS = {
    "ensemble": "List, show or verify published ensembles.",
    "config": "Print settings as a file, compare two, or print the schema of such files.",
}
"""What the verbs of two words share."""
RESUMES = ("demo", "train", "pretrain", "tune", "run")


def verb_of(words: Sequence[str]) -> str:
    """The verb with which a command line begins, or the group; nothing if it begins with none."""
    first, second = ([word.replace("_", "-") for word in words[:2]] + ["", ""])[:2]
    two = f"{first} {second}"
    return two if two in VERBS else first if first in VERBS or first in GROUPS else ""


def make_app(words: Sequence[str]) -> SubcommandApp:
    """All verbs, with the settings of the file that the command line names as defaults.

    Raises:
        ConfigError, StorageError: the file cannot be used.
    """
    app, groups = SubcommandApp(), {name: SubcommandApp() for name in GROUPS}
    this = verb_of(words)
    for verb, function in VERBS.items():
        group, _, name = verb.rpartition(" ")
        (groups[group] if group else app).command(name=name)(with_file(function, words) if verb == this else function)
    for name, text in GROUPS.items():
        app.command(groups[name], name=name, help=text)
    return app


def call(words: Sequence[str]) -> None:
    """Run a command line, or print the help that it asks for, as one without a verb does.

    Raises:
        SaltrayError: it is wrong, or fails.
    """
    refuse_unknown_shell(words)
    refuse_unknown_verb(words, VERBS, GROUPS)
    refuse_misused(words)
    verb = verb_of(words)
    app = make_app(words)
    if asks_for_help(words) or not words or (words == [verb] and verb in GROUPS):
        show_help(app, verb, VERBS.get(verb), everything="--help-all" in words)
        return
    with told_in_one_line(app, verb):
        app.cli(prog="saltray", description=saltray.__doc__, args=words, registry=REGISTRY)


def main() -> None:
    """Entry point.

    Exit codes: 0 done, 1 a training failed, such as some folds or all trials, 2 the user can fix it, 129 hung up, 130
    interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # no letter that its encoding lacks ends a command
        sys.stdout.reconfigure(errors="replace")
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if sys.platform == "win32":
        errors.print("saltray: it runs on Linux and macOS; on Windows, use it in WSL 2")
        sys.exit(2)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home for its fonts it warns, and draws
    Interrupter().install()
    words = sys.argv[1:]
    try:
        try:
            call(words)
        finally:
            observer.end()
    except SaltrayError as error:
        for line in _details(error):
            errors.print(line)
        errors.print(Text(f"saltray: {error}", style="red"))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        resumes = "; run the same command again to resume" if verb_of(words) in RESUMES else ""
        errors.print(f"\nsaltray: interrupted{resumes}")
        sys.exit(interrupt.exit_code if isinstance(interrupt, Interrupted) else 130)
    except BrokenPipeError:  # `saltray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _details(error: SaltrayError) -> list[str]:
    """What belongs above an error's own line."""
    if isinstance(error, DataError):
        hidden = len(error.problems) - PROBLEMS_SHOWN
        shown = [f"  {problem}" for problem in error.problems[:PROBLEMS_SHOWN]]
        return [*shown, *([f"  and {hidden} more"] if hidden > 0 else [])]
    if isinstance(error, SearchFailedError):
        return [f"  {trial}: {reason}" for trial, reason in error.failures.items()]
    return []
