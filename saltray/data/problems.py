"""Problems of a data set's files: all of them are found, and those of one kind are told in one line."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from saltray.errors import DataError

SAMPLES = 3
"""Places that are named of problems of one kind; as many problems have a line each."""
KINDS = 100
"""Lines at most."""
LONGEST = 400
"""Letters of a name in a line: that of a zip's member may have 65,535."""
# What differs between two problems of one kind: numbers, and what is quoted or in parentheses.
_PARTICULARS = re.compile(r"\([^()]*\)|'[^']*'|\d[\d,]*")


class Problem(NamedTuple):
    """Where a problem is (a file, or a row of a table), and what it is, with the remedy."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {self.what}"


def printable(name: str) -> str:
    """A file name or id from outside, escaped if it has characters that are not safe to print, and not too long."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"
    return short if short.isprintable() else ascii(short)


def quoted(value: str) -> str:
    """A value from outside in quotes, escaped and not too long."""
    text = repr(value[:40]) if value.isprintable() else ascii(value[:40])
    return text + "..." * (len(value) > 40)


def summed_up(problems: Sequence[Problem]) -> tuple[str, ...]:
    """The problems in order of their places: a line each, but one for all of a kind that are more than `SAMPLES`."""
    kinds: dict[str, list[Problem]] = {}
    for problem in sorted(problems):
        kinds.setdefault(_PARTICULARS.sub("", problem.what), []).append(problem)
    lines = [line for same in kinds.values() for line in _lines(same)]
    more = [f"and {len(lines) - KINDS:,} more of other kinds"] if len(lines) > KINDS else []
    return (*sorted(lines)[:KINDS], *more)


def raise_problems(uri: str, problems: Sequence[Problem]) -> None:
    """Raise a DataError with all problems, summed up, if there are any."""
    if problems:
        lines = summed_up(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
        raise DataError(f"{count} in {uri}, fix or remove the files; the first: {lines[0]}", lines)


def named(error: DataError, uri: str, name: str) -> DataError:
    """The same fault, of a file whose name the message does not have."""
    problem = Problem(name, str(error))
    return DataError(f"{printable(name)} of {uri}: {error}", (str(problem),))


def and_more(names: Sequence[str]) -> str:
    """Some of many names, and how many more there are."""
    shown = ", ".join(map(printable, names[:SAMPLES]))
    return shown + f" and {len(names) - SAMPLES:,} more" * (len(names) > SAMPLES)


def _lines(same: Sequence[Problem]) -> list[str]:
    if len(same) <= SAMPLES:
        return [str(problem) for problem in same]
    return [f"{and_more([problem.where for problem in same])}: {same[0].what}"]
