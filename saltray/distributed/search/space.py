"""What a search may change: fields of the configuration, each with a range or a list of values.

A space is a mapping from a field's dotted name to what it may be: `{"optim.lr": loguniform(1e-5, 1e-2)}`, on the
command line `--search optim.lr=log:1e-5:1e-2`. Trial k has the same values whatever the number of trials, so a search
can be extended.
"""

import dataclasses
import difflib
import itertools
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from saltray.config import AugmentConfig, Config, ModelConfig, OptimConfig, TrainConfig
from saltray.errors import ConfigError

SECTIONS = {"model": ModelConfig, "optim": OptimConfig, "augment": AugmentConfig, "train": TrainConfig}
FIXED = {
    "train.epochs": "trials of unequal length cannot be compared epoch by epoch; give --train.epochs instead",
    "train.eval_every": "it changes only how often a trial is scored",
    "train.checkpoint_every": "it changes no score",
    "model.weights": "they are read once for all trials; give --model.weights, and search once for each",
}
FORMS = "log:LOW:HIGH, lin:LOW:HIGH or A,B,C"


@dataclass(frozen=True)
class Range:
    """Any number from `low` to `high`; by its logarithm, or as it is."""

    low: float
    high: float
    log: bool

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not (_is_number(end) and math.isfinite(end)):
                raise ConfigError(f"a range ends at {end!r}, which is no finite number; use numbers such as 1e-5")
        if self.low >= self.high:
            what = "is empty" if self.low == self.high else "has its minimum above its maximum"
            raise ConfigError(f"the range {self} {what}; give LOW:HIGH with LOW below HIGH")
        if self.log and self.low <= 0:
            raise ConfigError(f"the range {self} takes the logarithm of {self.low:g}; start above 0, or use lin:")

    def at(self, share: float) -> float:
        """The value at a share of the way, 0..1, to four digits."""
        value = self.low + (self.high - self.low) * share
        if self.log:
            value = self.low * (self.high / self.low) ** share
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def near_end(self, value: float) -> str | None:
        """`lower` or `upper` where the value lies within 5 % of the range from that end."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (at - low) / (high - low)
        return "lower" if share < 0.05 else "upper" if share > 0.95 else None

    def ends(self) -> tuple[float, float]:
        """What has to be a possible value, so that all between are."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{'log' if self.log else 'lin'}:{self.low:g}:{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError("a choice has no values; give one or more, such as 16,32,64")
        twice = [value for at, value in enumerate(self.values) if value in self.values[:at]]
        if twice:
            raise ConfigError(f"the choice {self} has {twice[0]} twice; give each value once")

    def at(self, share: float) -> Any:
        """The value at a share of the way through the list, 0..1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    def __str__(self) -> str:
        return ",".join(map(_text, self.values))


Space = Mapping[str, Range | Choice]


def loguniform(low: float, high: float) -> Range:
    """Any number from `low` to `high`, each order of magnitude as likely as the next; for learning rates.

    Raises:
        ConfigError: low is 0 or less, or not below high.
    """
    return Range(low, high, log=True)


def uniform(low: float, high: float) -> Range:
    """Any number from `low` to `high`.

    Raises:
        ConfigError: low is not below high.
    """
    return Range(low, high, log=False)


def choice(values: Iterable[Any]) -> Choice:
    """One of these values. A space of choices alone is a grid: each combination is tried once.

    Raises:
        ConfigError: there are none, or one comes twice.
    """
    return Choice(tuple(values))


def parse_space(texts: Sequence[str]) -> Space:
    """The space that `FIELD=log:LOW:HIGH`, `FIELD=lin:LOW:HIGH` and `FIELD=A,B,C` describe.

    Raises:
        ConfigError: not of that form, or a field comes twice; `check_space` checks the rest.
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        if not equals:
            raise ConfigError(f"--search {text} has no '='; use FIELD={FORMS}")
        if field in space:
            raise ConfigError(f"--search has {field} twice; give each field once")
        space[field] = _parse_values(field, values)
    return space


def _parse_values(field: str, text: str) -> Range | Choice:
    if not text.strip():
        raise ConfigError(f"--search {field}= has no values; use {FORMS}")
    kind, *ends = text.split(":")
    try:
        if kind in ("log", "lin"):
            low, high = map(float, ends)
            return Range(low, high, log=kind == "log")
        kind_of = _field_type(field)
        return Choice(tuple(_parse_value(word.strip(), kind_of) for word in text.split(",")))
    except ValueError:
        raise ConfigError(f"--search {field}={text} is not {kind}:LOW:HIGH with two numbers") from None
    except ConfigError as error:
        raise ConfigError(f"--search {field}: {error}") from None


def _parse_value(word: str, kind: Any) -> Any:
    if kind is bool:
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise ConfigError(f"{word!r} is neither true nor false")
    if kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            raise ConfigError(f"{word!r} is no {'whole number' if kind is int else 'number'}") from None
    return word


def check_space(space: Space, config: Config) -> None:
    """Check every field, and that each of its values makes a possible configuration.

    Raises:
        ConfigError: a field is unknown or not one to search, or a value is of the wrong type or impossible.
    """
    if not space:
        raise ConfigError(f"the search has no field; give one or more, such as --search optim.lr={FORMS}")
    for field, values in space.items():
        kind = _field_type(field)
        if field in FIXED:
            raise ConfigError(f"{field} cannot be searched: {FIXED[field]}")
        if config.model.weights is not None and (field.startswith("model.") or field == "train.seed"):
            raise ConfigError(f"{field} cannot be searched with model.weights: all trials begin with the same network")
        if isinstance(values, Range) and kind is not float:
            raise ConfigError(f"{field} is not a real number, so it has no range; give its values as A,B,C")
        for value in values.ends():
            if not _fits(value, kind):
                raise ConfigError(f"{field} cannot be {value!r}: it is {_type_text(kind)}")
            apply(config, {field: value})


def apply(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these fields, by dotted name, in place of its own.

    Raises:
        ConfigError: a field is unknown, or a value is impossible.
    """
    changes: dict[str, dict[str, Any]] = {}
    for field, value in values.items():
        _field_type(field)
        section, _, name = field.partition(".")
        changes.setdefault(section, {})[name] = value
    parts = {section: dataclasses.replace(getattr(config, section), **new) for section, new in changes.items()}
    return dataclasses.replace(config, **parts)


def draw(space: Space, seed: int, index: int) -> dict[str, Any] | None:
    """Values of trial `index`; None past the end of a grid.

    A space of choices alone is a grid, gone through in an order that the seed decides. Otherwise the trials are
    quasi-random: an additive recurrence by powers of the generalised golden ratio (Roberts, 2018) covers the space more
    evenly than independent draws, from any first k trials on.
    """
    fields = sorted(space)
    generator = np.random.default_rng(seed)
    if all(isinstance(values, Choice) for values in space.values()):
        grid = list(itertools.product(*(space[field].ends() for field in fields)))
        if index >= len(grid):
            return None
        return dict(zip(fields, grid[generator.permutation(len(grid))[index]], strict=True))
    golden = 2.0
    for _ in range(64):  # the root of x ** (d + 1) = x + 1
        golden = (1 + golden) ** (1 / (len(fields) + 1))
    starts = generator.random(len(fields))
    shares = [(start + (index + 1) * golden ** -(at + 1)) % 1 for at, start in enumerate(starts)]
    return {field: space[field].at(share) for field, share in zip(fields, shares, strict=True)}


def _field_type(field: str) -> Any:
    """Type of a searchable field.

    Raises:
        ConfigError: there is none of this name.
    """
    known = {
        f"{section}.{name}": kind
        for section, part in SECTIONS.items()
        for name, kind in typing.get_type_hints(part).items()
    }
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see `saltray train --help` for the names"
        raise ConfigError(f"there is no field {field!r} to search; {hint}")
    return known[field]


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind is float:
        return _is_number(value)
    return type(value) is kind


def _type_text(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(kind, "text")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
