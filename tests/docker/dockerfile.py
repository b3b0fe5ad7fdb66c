"""A Dockerfile as stages of instructions."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Instruction(NamedTuple):
    """`COPY --from=build a b`: its name, its flags, and the rest as written, on one line."""

    name: str
    flags: dict[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.rest)

    @property
    def exec_form(self) -> list[str]:
        """The command of CMD or HEALTHCHECK, which must be a list."""
        words: list[str] = json.loads(self.rest.removeprefix("CMD "))
        return words


@dataclass
class Stage:
    """From one FROM to the next."""

    name: str
    image: str
    parent: "Stage | None"
    own: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Instructions of one name; those of the parent stages first."""
        before = self.parent.all(name) if self.parent else []
        return before + [each for each in self.own if each.name == name]

    @property
    def env(self) -> dict[str, str]:
        pairs = (word.partition("=") for each in self.all("ENV") for word in each.words)
        return {key: value for key, _, value in pairs}


def parse(text: str) -> dict[str, Stage]:
    """Stages by name, in order. Heredocs and other escape characters are unsupported."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            image, _, name = instruction.words
            stages[name] = Stage(name, image, stages.get(image))
        else:
            list(stages.values())[-1].own.append(instruction)
    return stages


def _instructions(text: str) -> Iterator[Instruction]:
    assert "<<" not in text
    assert not re.match(r"#\s*escape", text)
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, rest = line.split(maxsplit=1)
        flags = {}
        while flag := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[flag[1]] = flag[2]
            rest = rest[flag.end() :]
        yield Instruction(name, flags, rest.strip())
