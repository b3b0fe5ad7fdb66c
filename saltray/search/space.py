"""What a search may vary: fields of the configuration, each with a range or a list of values.

A space is a mapping from a field's dotted name to its possible values: `{"optim.lr": loguniform(1e-5, 1e-2)}`, on the
command line `--search.space optim.lr=log:1e-5:1e-2`. Trial k has the same values whatever the number of trials, so a
search can be extended.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saltray.config import Choice, Config, Range, Space, Values
from saltray.errors import ConfigError
from saltray.records import RecordError, field_types, fits, parse_word, replace_fields, type_text
from saltray.wording import did_you_mean, excerpt

SECTIONS = ("model", "optim", "augment", "loss", "late_loss", "train")
FIXED = {
    "train.epochs": "trials of unequal length cannot be compared epoch by epoch; use --search.epochs instead",
    "train.eval_every": "it changes only how often a trial is scored; leave it out",
    "train.checkpoint_every": "it changes no score; leave it out",
    "train.snapshots": "a trial is scored by its last weights alone; leave it out",
    "model.weights": "they are read once for all trials; set --model.weights, and run one search for each",
}
FORMS = "log:LOW:HIGH, lin:LOW:HIGH or A,B,C"
MAX_GRID = 1_000_000
"""Most combinations of values of a grid; their order is a permutation of all of them."""
NEAR_END = 0.05
"""Share of a range that counts as its end."""


def parse_space(texts: Iterable[str]) -> Space:
    """The space that `FIELD=log:LOW:HIGH`, `FIELD=lin:LOW:HIGH` and `FIELD=A,B,C` describe.

    Raises:
        ConfigError: not of that form, or a field is given twice; `check_space` checks the rest.
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        if not equals:
            raise ConfigError(f"search.space {text} has no '='; use FIELD={FORMS}")
        if field in space:
            raise ConfigError(f"search.space has {field} twice; give each field once")
        space[field] = parse_values(field, values)
    return space


def parse_values(field: str, text: str) -> Range | Choice:
    """The possible values of a field from their text.

    Raises:
        ConfigError: the field is unknown, or the text is not of one of the three forms.
    """
    if not text.strip():
        raise ConfigError(f"search.space {field} has no values; use {FORMS}")
    form, *ends = text.split(":")
    kind = _field_type(field)
    try:
        if form in ("log", "lin"):
            low, high = map(float, ends)
            return Range(low, high, log=form == "log")
        return Choice(tuple(parse_word(kind, word.strip()) for word in text.split(",")))
    except RecordError as error:
        raise ConfigError(f"search.space {field}: {error}; use {FORMS}") from None
    except ValueError:
        raise ConfigError(f"search.space {field}={text} is not {form}:LOW:HIGH with two numbers") from None
    except ConfigError as error:
        raise ConfigError(f"search.space {field}: {error}") from None


def list_values(field: str, values: Any) -> Choice:
    """The possible values of a field from a list of them, or the only one, each as the field's type has it.

    Raises:
        ConfigError: the field is unknown, or a value is of another type.
    """
    kind = _field_type(field)
    words = values if isinstance(values, list) else [values]
    for value in words:
        if not fits(kind, value):
            raise ConfigError(f"search.space {field}: {excerpt(value)} is not {type_text(kind)}; use {FORMS}")
    try:
        return Choice(tuple(float(value) if kind is float else value for value in words))
    except ConfigError as error:
        raise ConfigError(f"search.space {field}: {error}") from None


def check_space(space: Space, config: Config) -> None:
    """Check every field, and that each of its values makes a possible configuration.

    Raises:
        ConfigError: a field is unknown or cannot be searched, or a value is of the wrong type or impossible.
    """
    if not space:
        raise ConfigError(f"search.space is empty; give one field or more, such as optim.lr={FORMS}")
    for field, values in space.items():
        kind = _field_type(field)
        if field in FIXED:
            raise ConfigError(f"{field} cannot be searched: {FIXED[field]}")
        if config.model.weights is not None and (field.startswith("model.") or field == "train.seed"):
            raise ConfigError(
                f"{field} cannot be searched with model.weights, as all trials start from the same network; leave out "
                "one of the two"
            )
        if isinstance(values, Range) and kind is not float:
            raise ConfigError(f"{field} is not a real number, so it has no range; list its values as A,B,C")
        for value in (values.low, values.high) if isinstance(values, Range) else values.values:
            if not fits(kind, value):
                raise ConfigError(f"{field} cannot be {value!r}: it takes {type_text(kind)}")
            replace_fields(config, {field: value})
    lists = [values.values for values in space.values() if isinstance(values, Choice)]
    if len(lists) == len(space) and (count := math.prod(map(len, lists))) > MAX_GRID:
        raise ConfigError(
            f"search.space is a grid of {count} combinations, more than {MAX_GRID:,}; search fewer fields or values, "
            "or give one a range"
        )


def apply_values(config: Config, values: Values) -> Config:
    """The configuration with these fields, by dotted name, in place of its own.

    Raises:
        ConfigError: a field is unknown, or a value is impossible.
    """
    for field in values:
        _field_type(field)
    return replace_fields(config, values)


def draw_values(space: Space, seed: int, index: int) -> Values | None:
    """Values of trial `index`; None past the end of a grid.

    A space of choices alone is a grid, traversed in an order that the seed decides. Otherwise the trials are
    quasi-random: an additive recurrence by powers of the generalised golden ratio (Roberts, 2018) covers the space more
    evenly than independent draws, after any number of trials.
    """
    fields = sorted(space)
    lists = [values.values for field in fields if isinstance(values := space[field], Choice)]
    if len(lists) == len(fields):
        count = math.prod(map(len, lists))
        if index >= count:
            return None
        at = np.unravel_index(_grid_order(seed, count)[index], [len(values) for values in lists])
        return {field: values[place] for field, values, place in zip(fields, lists, at, strict=True)}
    generator = np.random.default_rng(seed)
    golden = 2.0
    for _ in range(64):  # the root of x ** (d + 1) = x + 1
        golden = (1 + golden) ** (1 / (len(fields) + 1))
    starts = generator.random(len(fields))
    shares = [(start + (index + 1) * golden ** -(at + 1)) % 1 for at, start in enumerate(starts)]
    return {field: value_at(space[field], share) for field, share in zip(fields, shares, strict=True)}


@lru_cache(maxsize=1)
def _grid_order(seed: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count)


def has_value(values: Range | Choice, value: Any) -> bool:
    """Whether a trial may have this value."""
    if isinstance(values, Choice):
        return any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in values.values
        )  # True == 1
    return fits(float, value) and values.low <= value <= values.high


def value_at(values: Range | Choice, share: float) -> Any:
    """The value at a share, 0..1, of the way through a range (to four digits) or a list."""
    if isinstance(values, Choice):
        return values.values[min(int(share * len(values.values)), len(values.values) - 1)]
    value = values.low + (values.high - values.low) * share
    if values.log:
        value = values.low * (values.high / values.low) ** share
    return rounded(values, value)


def rounded(values: Range, value: float) -> float:
    """A value of a range to four digits, still within the range."""
    return min(max(float(f"{value:.4g}"), values.low), values.high)


def end_near(values: Range, value: float) -> str | None:
    """`lower` or `upper` where the value lies near that end of the range; then a wider range may be better."""
    low, high, at = map(math.log, (values.low, values.high, value)) if values.log else (values.low, values.high, value)
    share = (at - low) / (high - low)
    return "lower" if share < NEAR_END else "upper" if share > 1 - NEAR_END else None


def _field_type(field: str) -> Any:
    """Type of a searchable field.

    Raises:
        ConfigError: there is none of this name.
    """
    known = {name: kind for name, kind in field_types(Config).items() if name.startswith(SECTIONS)}
    if field not in known:
        hint = did_you_mean(field, known, "see `saltray train --help-all` for the names")
        raise ConfigError(f"there is no field {field[:80]!r} to search; {hint}")
    return known[field]
