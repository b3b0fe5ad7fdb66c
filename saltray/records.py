"""One reflection over frozen dataclasses: to JSON and back, strictly, and their fields by dotted name.

Settings, manifests, results and histories are such dataclasses. Flags, TOML and JSON files, search spaces and whatever
is kept in a store follow from their fields; nothing is declared a second time.
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections import Counter
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


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
    return parse_record(kind, text)


def parse_record(kind: type[T], data: bytes | str) -> T:
    """`from_record` of a JSON text.

    Raises:
        as `from_record`.
    """
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    try:
        value: T = _adapter(typing.cast("Any", kind)).validate_json(f"[{text}]")[0]
    except ValidationError as error:
        raise RecordError(_describe(error, kind)) from None
    return value


def digest(record: Any) -> str:
    """SHA-256, in hex, of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


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
        raise RecordError(f"{word!r} is not {type_text(kind)}") from None


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


def excerpt(value: Any) -> str:
    """A value for a message, as JSON and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."


def suggestion(name: str, known: typing.Iterable[str]) -> str | None:
    """The known name that may have been meant, if one is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


@cache
def _strict(kind: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(kind, config=ConfigDict(strict=True))


@cache
def _adapter(kind: Hashable) -> "TypeAdapter[Any]":
    # A dataclass takes the configuration of what it stands in, hence the tuple.
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]


def _describe(error: ValidationError, kind: type[Any]) -> str:
    """One of pydantic's complaints in one line."""
    faults = error.errors(include_url=False)
    # What fits no member of a union has the faults of all members; the one with the fewest was meant. A name that is
    # unknown explains one that is missing.
    count = Counter(fault["loc"][:-1] for fault in faults)
    fault = min(faults, key=lambda fault: (count[fault["loc"][:-1]], fault["type"] == "missing"))
    name = ".".join(map(str, fault["loc"][1:])) or "the record"
    match fault["type"]:
        case "missing":
            return f"{name} is missing"
        case "unexpected_keyword_argument":
            meant = _meant(name, kind) if dataclasses.is_dataclass(kind) else None
            return f"{name} is unknown" + (f"; did you mean {meant}?" if meant else "")
        case "json_invalid":
            return f"not JSON: {fault['msg'].removeprefix('Invalid JSON: ')}"
    return f"{name} is {excerpt(fault['input'])}; {fault['msg'].replace('Input', 'it', 1)}"


def _meant(name: str, kind: type[Any]) -> str | None:
    """The field that may have been meant: one beside it, or, as sections are easily forgotten, one anywhere."""
    known = field_types(kind).keys() - {name}  # a field with an alias is unknown by its own name
    depth = name.count(".")
    beside = {".".join(other.split(".")[: depth + 1]) for other in known if other.count(".") >= depth}
    return suggestion(name, beside) or (None if depth else suggestion(name, known))
