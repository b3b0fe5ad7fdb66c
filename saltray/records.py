"""One reflection over frozen dataclasses: to JSON and back, strictly, and their fields by dotted name.

Settings, manifests, results and histories are such dataclasses. Flags, TOML and JSON files, search spaces and whatever
is kept in a store follow from their fields; nothing is declared a second time.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from saltray.wording import did_you_mean, excerpt, plain, suggestion

T = TypeVar("T")

RECORD_BYTES = 2**20
"""Largest text of a record. A kind that may be larger has its own limit as its class variable MAX_BYTES."""
MAX_EPOCHS = 10_000
"""Most epochs of a training."""
MAX_FOLDS = 999
"""Most folds of a run."""

# What the fields of stored records may be: a record that was damaged often still parses.
Count = Annotated[int, Field(ge=0, le=10**12)]
"""Number of things, or a position among them."""
Fold = Annotated[int, Field(ge=0, lt=MAX_FOLDS)]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
"""Number of finished epochs."""
Pixels = Annotated[int, Field(ge=1, le=2**16)]
"""Height or width."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e11)]
"""A duration, or a time since 1970."""
Rate = Annotated[float, Field(ge=0, le=1e15)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Many = Annotated[tuple[T, ...], FailFast()]
"""A sequence that may be long: after the first fault the others do not count."""


UNSET = "unset"
"""How flags, files and tables show None, and take it; TOML has no word for it."""


class RecordError(ValueError):
    """A record does not fit its dataclass. `str(error)` names a field at fault, and what it should be."""


def to_record(value: Any) -> Any:
    """A dataclass as plain JSON values, by field name (or by the alias that the field has in stored records)."""
    # Not pydantic's mode="json": it makes 1 in a float field 1.0, and a run's identity would no longer be the same.
    fields = _adapter(typing.cast("Any", type(value))).dump_python((value,), by_alias=True, warnings=False)[0]
    return json.loads(json.dumps(fields))


def from_record(kind: type[T], record: Any) -> T:
    """The inverse of `to_record`: fields of other types, unknown and missing ones are refused.

    Raises:
        RecordError: the record does not fit `kind`.
        SaltrayError: whatever `kind` raises for impossible values.
    """
    try:
        text = json.dumps(record, default=lambda other: {type(other).__name__: str(other)})  # an object fits no field
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except (TypeError, ValueError) as error:  # a key that is no text, or a number of thousands of digits
        raise RecordError(str(error)) from None
    return parse_record(kind, text)


def parse_record(kind: type[T], data: bytes | str) -> T:
    """`from_record` of a JSON text.

    Raises:
        as `from_record`.
    """
    text = _checked_text(data, bytes_limit(kind))
    try:
        value: T = _adapter(typing.cast("Any", kind)).validate_json(f"[{text}]")[0]
    except ValidationError as error:
        raise RecordError(_describe(error, kind)) from None
    parse_json(text, limit=bytes_limit(kind))  # pydantic takes the last of two equal names
    return value


def parse_json(data: bytes | str, *, limit: int = RECORD_BYTES) -> Any:
    """Plain values of a JSON text; a name that is given twice in an object is refused.

    Args:
        data: the text; as bytes it is UTF-8.
        limit: the most bytes that it may have.

    Raises:
        RecordError: it is larger, nested too deeply, or not JSON.
    """
    text = _checked_text(data, limit)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise RecordError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from None


def bytes_limit(kind: Any) -> int:
    """The most bytes that the text of a record may have."""
    return int(getattr(kind, "MAX_BYTES", RECORD_BYTES))


def digest(record: Any) -> str:
    """SHA-256, in hex, of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted name."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def field_types(kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """The type of each field by dotted name, those of nested dataclasses included."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= field_types(hint, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = hint
    return found


@cache
def own_field_types(kind: Hashable) -> dict[str, Any]:
    """The type of each field that is not a dataclass itself."""
    hints = typing.get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if not dataclasses.is_dataclass(hint)}


def replace_fields(value: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with other values for some fields, by dotted name.

    Raises:
        SaltrayError: whatever the dataclass raises for impossible values.
    """
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, new in changes.items():
        head, dot, rest = name.partition(".")
        if dot:
            nested.setdefault(head, {})[rest] = new
        else:
            own[head] = new
    own |= {head: replace_fields(getattr(value, head), below) for head, below in nested.items()}
    return typing.cast("T", dataclasses.replace(typing.cast("Any", value), **own))


def parse_word(kind: Any, word: str) -> Any:
    """A word of the command line as a value of a field's type.

    Raises:
        RecordError: the word is not a value of that type.
    """
    try:
        if kind is bool:  # pydantic also takes yes, on and 1
            return {"true": True, "false": False}[word.lower()]
        return TypeAdapter(kind).validate_strings(word)
    except (KeyError, ValidationError):
        raise RecordError(f"{word!r} is not {type_text(kind)}{meant_choice(kind, word)}") from None


def fits(kind: Any, value: Any) -> bool:
    """Whether a field of type `kind` may have this value; a whole number may stand for any number."""
    try:
        _strict(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def type_text(kind: Any) -> str:
    """A field's type in words."""
    if isinstance(kind, types.UnionType):
        return " or ".join(map(type_text, typing.get_args(kind)))
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        return f"a list of {type_text(typing.get_args(kind)[0])}"
    words = {str: "text", int: "an integer", float: "a number", bool: "true or false", type(None): "null"}
    return words.get(kind, "an object")


def meant_choice(kind: Any, value: Any) -> str:
    """`; did you mean NEAR?` where a value is close to one of a field's few texts; else nothing."""
    kinds = (kind, *typing.get_args(kind))
    choices = [text for one in kinds if typing.get_origin(one) is Literal for text in typing.get_args(one)]
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    return near and f"; {near}"


def _checked_text(data: bytes | str, limit: int) -> str:
    if len(data) > limit:
        raise RecordError(f"it has more than {limit:,} bytes")
    try:
        return data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ."""
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{plain(twice)} is given twice")
    return table


@cache
def _strict(kind: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(kind, config=ConfigDict(strict=True))


@cache
def _adapter(kind: Hashable) -> "TypeAdapter[Any]":
    # A dataclass takes the configuration of what it stands in, hence the tuple.
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # no such number can be stored again
    return TypeAdapter(tuple[kind], config=config)  # type: ignore[valid-type]


def _describe(error: ValidationError, kind: type[Any]) -> str:
    """One of pydantic's complaints in one line."""
    faults = error.errors(include_url=False)
    # What fits no member of a union has the faults of all members; the one with the fewest was meant. A name that is
    # unknown explains one that is missing.
    count = Counter(fault["loc"][:-1] for fault in faults)
    fault = min(faults, key=lambda fault: (count[fault["loc"][:-1]], fault["type"] == "missing"))
    name = ".".join(plain(str(part)) for part in fault["loc"][1:]) or "the record"
    match fault["type"]:
        case "missing":
            return f"{name} is missing"
        case "unexpected_keyword_argument":
            meant = _meant(name, kind) if dataclasses.is_dataclass(kind) else None
            return f"{name} is unknown" + (f"; did you mean {meant}?" if meant else "")
        case "json_invalid":
            return f"not JSON: {fault['msg'].removeprefix('Invalid JSON: ')}"
        case "value_error":
            return f"{name} is {excerpt(fault['input'])}; {fault['ctx']['error']}"
    near = ""
    if fault["type"] == "literal_error" and dataclasses.is_dataclass(kind):
        near = meant_choice(field_types(kind).get(name), fault["input"])
    return f"{name} is {excerpt(fault['input'])}; {fault['msg'].replace('Input', 'it', 1)}{near}"


def _meant(name: str, kind: type[Any]) -> str | None:
    """The field that may have been meant: one beside it, or, as sections are easily forgotten, one anywhere."""
    known = field_types(kind).keys() - {name}  # a field with an alias is unknown by its own name
    depth = name.count(".")
    beside = {".".join(other.split(".")[: depth + 1]) for other in known if other.count(".") >= depth}
    return suggestion(name, beside) or (None if depth else suggestion(name, known))
