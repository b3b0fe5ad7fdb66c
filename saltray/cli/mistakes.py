"""Wrong command lines: what is told of each, in one line. What is private of tyro is used here alone."""

import io
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress

from tyro import _errors as tyro_errors
from tyro.extras import SubcommandApp

from saltray.cli.flags import REGISTRY
from saltray.errors import ConfigError
from saltray.wording import did_you_mean, plain, suggestion

SHELLS = (["bash"], ["zsh"], ["tcsh"], ["fish"])
_FLAG = re.compile(r"(?:^|(?<=  )|(?<=│ )|(?<=, ))--([a-z][a-z._-]*[a-z])(?=,|  | [A-Z{\[]|\s*$)", re.MULTILINE)
"""A flag in a verb's help, which may be in several columns; not one that a description mentions."""


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
                raise ConfigError(_unknown(app, word.partition("=")[0], verb))
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


def _unknown(app: SubcommandApp, word: str, verb: str) -> str:
    """What to tell of a word that the verb does not take."""
    lists = f"`saltray {verb} --help-all` lists all flags" if verb else "`saltray --help` lists all verbs"
    if not word.startswith("-"):
        return f"{verb} takes no {plain(word)!r} without a flag before it; {lists}"
    name, own = word.lstrip("-").replace("_", "-"), _flags_of(app, verb)
    no_flag = f"{verb or 'saltray'} has no flag {plain(word)}"
    begun = [flag for flag in own if flag.startswith(f"{name}-")]
    near = begun[0] if len(begun) == 1 else suggestion(name, own, least=0.75)
    if verb and ("." in name or near is None):
        others = {other: _flags_of(app, other) for other in _verbs_of(app) if other != verb}
        if verbs := [other for other, flags in others.items() if name in flags]:
            instead = "that verb" if len(verbs) == 1 else "one of these verbs"
            return f"{no_flag}, which is a flag of {_listed(verbs)}; leave it out, or use {instead}"
        if near is None and (other := suggestion(name, itertools.chain(*others.values()), least=0.75)):
            verbs = [verb for verb, flags in others.items() if other in flags]
            return f"{no_flag}; did you mean --{other}, a flag of {_listed(verbs)}?"
    near = near or suggestion(name, own)
    return f"{no_flag}; " + (f"did you mean --{near}?" if near else lists)


def _listed(verbs: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(verbs[:-1]), verbs[-1])))


def _verbs_of(app: SubcommandApp) -> Iterator[str]:
    for name, command in app._subcommands.items():
        if isinstance(command.target, SubcommandApp):
            yield from (f"{name} {second}" for second in _verbs_of(command.target))
        else:
            yield name


def _flags_of(app: SubcommandApp, verb: str) -> list[str]:
    """The flags of a verb, as its help has them, without the dashes."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        app.cli(prog="saltray", args=[*verb.split(), "--help"], registry=REGISTRY)
    return _FLAG.findall(text.getvalue())
