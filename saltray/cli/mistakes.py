"""Wrong command lines: what is told of each, in one line. What is private of tyro is used here alone."""

import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress

from tyro import _errors as tyro_errors
from tyro.extras import SubcommandApp

from saltray.cli.flags import REGISTRY
from saltray.errors import ConfigError
from saltray.wording import did_you_mean, plain, suggestion

SHELLS = (["bash"], ["zsh"], ["tcsh"], ["fish"])


def refuse_unknown_shell(words: Sequence[str]) -> None:
    """Refuse to complete the words of a shell that tyro does not know, which is an assertion there.

    Raises:
        ConfigError: it is one.
    """
    if words and re.fullmatch(r"--tyro.(print|write).completion", words[0]) and words[1:2] not in SHELLS:
        shells = ", ".join(shell for (shell,) in SHELLS)
        raise ConfigError(f"{words[0]} is {' '.join(words[1:2])!r}; use one of {shells}")


def refuse_unknown_verb(words: Sequence[str], verbs: Collection[str], groups: Collection[str]) -> None:
    """Refuse a verb that there is not.

    Args:
        words: the command line.
        verbs: some are of two words.
        groups: first words of those.

    Raises:
        ConfigError: it is one; the message says which may have been meant.
    """
    group = words[0] if words and words[0] in groups else ""
    given = words[1:] if group else words
    # A verb of two words may be meant by its second alone.
    verb_by_name = {verb.rpartition(" ")[2]: verb for verb in reversed([*verbs]) if verb.startswith(group)}
    if not group:
        verb_by_name |= {verb: verb for verb in [*verbs, *groups] if " " not in verb}
    name = given[0].replace("_", "-") if given else ""
    if not name or name.startswith("-") or verb_by_name.get(name) in (name, f"{group} {name}"):
        return
    where = f"saltray {group}".rstrip()
    near = suggestion(name, verb_by_name)
    remedy = f"did you mean saltray {verb_by_name[near]}?" if near else f"`{where} --help` lists what there is"
    raise ConfigError(f"{group or 'saltray'} has no verb {plain(given[0])!r}; {remedy}")


@contextmanager
def told_in_one_line(app: SubcommandApp, verb: str) -> Iterator[None]:
    """Raise what tyro would draw in boxes.

    Raises:
        ConfigError: the command line is wrong.
    """

    def refuse(event: tyro_errors.ParseErrorEvent) -> None:
        match event:
            case (
                tyro_errors.UnrecognizedArgs(tokens=[word, *_])
                | tyro_errors.MissingArgs(unrecognized_tokens=[word, *_])
            ):
                raise ConfigError(_unknown(word.partition("=")[0], verb, _flags_of(app, verb)))
            case tyro_errors.MissingArgs(missing_arguments=missing):
                named = (
                    item.arg.lowered.metavar if item.arg.is_positional() else item.arg.display_name()
                    for item in missing
                )
                names = " and ".join(map(str, named))
                raise ConfigError(f"{verb} needs {names}; `saltray {verb} --help` explains it")
            case tyro_errors.InvalidChoice(argument=argument, value=value, choices=choices):
                near = did_you_mean(value, choices)
                remedy = f"use one of {', '.join(choices)}" + (near and f"; {near}")
                raise ConfigError(f"{argument.display_name()} is {plain(value)!r}; {remedy}")
            case tyro_errors.BadValue(argument=argument):
                remedy = f"`saltray {verb} --help-all` explains it"
                raise ConfigError(f"{argument.display_name()} has no value; {remedy}")
            case tyro_errors.InstantiationFailure(argument=argument, message=message) if argument is not None:
                value = message.rpartition(": ")[2]  # Python's own: could not convert string to float: 'x'
                raise ConfigError(f"{argument.display_name()} is {plain(value)}; it takes {argument.lowered.metavar}")

    with tyro_errors.on_parse_error(refuse):
        yield


def _unknown(word: str, verb: str, flags: list[str]) -> str:
    lists = f"`saltray {verb} --help-all` lists all flags" if verb else "`saltray --help` lists all verbs"
    if not word.startswith("-"):
        return f"{verb} takes no {plain(word)!r} without a flag before it; {lists}"
    near = suggestion(word.lstrip("-").replace("_", "-"), [flag.lstrip("-") for flag in flags])
    return f"{verb or 'saltray'} has no flag {plain(word)}; " + (f"did you mean --{near}?" if near else lists)


def _flags_of(app: SubcommandApp, verb: str) -> list[str]:
    """The flags of a verb, as its help has them."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        app.cli(prog="saltray", args=[*verb.split(), "--help"], registry=REGISTRY)
    return re.findall(r"--[a-z][a-z._-]*[a-z]", text.getvalue())
