"""Settings from a TOML or JSON file, here or in S3, by the names that `saltray train --help` gives them."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from saltray.config import Config, from_dict
from saltray.errors import ConfigError
from saltray.storage.names import open_store

SEARCH = {
    "name": str,
    "trials": int,
    "folds": tuple[int, ...],
    "sampler": Literal["quasirandom", "tpe"],
    "prune": bool,
    "concurrent": int | None,
    "seed": int,
    "epochs": int | None,
}
"""What `[search]` may hold beside `space`: the arguments of `saltray.tune` and `saltray.run`."""
SPACE = "search.space."
TRAIN_ONLY = ("plan", "train")
"""Verbs with the settings of a run, but not of a search."""
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def load_config(uri: str) -> Config:
    """The configuration that a file describes; what it leaves out has its default, and its `[search]` is passed over.

    Args:
        uri: a path or s3://bucket/key of a TOML or JSON file, such as `to_dict` of a configuration written as JSON.

    Raises:
        ConfigError: it cannot be parsed, or a setting is unknown, missing, of the wrong type or impossible.
        StorageError: it is not there, or cannot be read.
    """
    record: dict[str, Any] = {}
    for name, value in read_settings(uri).items():
        section, dot, field = name.rpartition(".")
        if section == "search" or name.startswith(SPACE):
            continue
        (record.setdefault(section, {}) if dot else record)[field] = value
    if "data" not in record:
        raise ConfigError(f"{uri} names no data; give a folder, a zip or s3://bucket/prefix as data")
    return from_dict(record)


def read_settings(uri: str) -> dict[str, Any]:
    """The settings of a file by dotted name, such as train.epochs, each of its right type.

    The hardware's settings stand in `[cluster]` or on top, as on the command line; those of a search in `[search]`, and
    what it searches in `[search.space]`: a field, and its values as `--search` takes them, or a list of them.

    Raises:
        ConfigError: the file cannot be parsed, or a setting is unknown, there twice, or of the wrong type.
        StorageError: it is not there, or cannot be read.
    """
    known = _known()
    settings: dict[str, Any] = {}
    for given, value in _flat(_parse(uri)):
        name = given.replace("-", "_")
        name = f"cluster.{name}" if f"cluster.{name}" in known else name
        if name in settings:
            raise ConfigError(f"{uri}: {given} is given twice; leave one of them out")
        if name.startswith(SPACE):
            settings[name] = ",".join(map(_text, value)) if isinstance(value, list) else str(value)
            continue
        if name not in known:
            raise ConfigError(f"{uri}: {given} is {_instead(name, known)}")
        settings[name] = _convert(value, known[name], f"{uri}: {given}")
    return settings


def with_files(args: list[str]) -> list[str]:
    """The command line's arguments, with what the files of --config say as flags before the others.

    So one parser checks both, and as of a flag the last one counts, the command line wins.

    Raises:
        as `read_settings`.
    """
    verb, own = args[0] if args else "", args[1:]
    if verb not in (*TRAIN_ONLY, "tune", "run"):
        return args
    settings: dict[str, Any] = {}
    for flag, after in zip(own, [*own[1:], ""], strict=True):
        name, _, file = flag.partition("=")
        if name == "--config" and (file or after):
            settings |= read_settings(file or after)
    searched = any(flag.partition("=")[0] in ("--search", "--range-test") for flag in own)
    return [verb, *_flags(verb, settings, searched=searched), *own]


def _flags(verb: str, settings: dict[str, Any], *, searched: bool) -> list[str]:
    """Settings of a file as flags of a verb.

    Args:
        verb: one of those with --config; what is of a search says nothing to some of them.
        settings: by dotted name.
        searched: whether the command line says itself what to search, for --search adds up.
    """
    if verb == "tune" and (epochs := settings.pop("search.epochs", None)) is not None:
        settings["train.epochs"] = epochs
    flags = []
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        if name.startswith(SPACE):
            flags += [] if verb in TRAIN_ONLY or searched else [f"--search={name.removeprefix(SPACE)}={value}"]
            continue
        if section == "search":
            if verb in TRAIN_ONLY:
                continue
            section, key = "", f"search_{key}" if key in ("name", "seed", "epochs") else key
        start = "--" if section in ("", "cluster") else f"--{section}."
        if isinstance(value, bool):
            flags.append(f"{start}{'' if value else 'no-'}{key}")
        elif isinstance(value, tuple):
            flags += [f"{start}{key}", *map(str, value)]
        else:
            flags.append(f"{start}{key}={value}")
    return flags


def _known() -> dict[str, Any]:
    """Type of each setting by dotted name."""
    known: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(Config).items():
        parts = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else None
        known |= {name: kind} if parts is None else {f"{name}.{part}": hint for part, hint in parts.items()}
    return known | {f"search.{name}": kind for name, kind in SEARCH.items()}


def _parse(uri: str) -> Mapping[str, Any]:
    cut = uri.rfind("/") + 1
    kind = uri.rpartition(".")[2].lower()
    if kind not in ("toml", "json"):
        raise ConfigError(f"{uri} ends neither in .toml nor in .json; rename it to what it is")
    data = open_store(uri[:cut] or ".").get(uri[cut:])
    try:
        record = tomllib.loads(data.decode()) if kind == "toml" else json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{uri} is not {kind.upper()}: {error}; correct it there") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{uri} is no table of settings; write names and values in braces")
    return record


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _instead(name: str, known: Mapping[str, Any]) -> str:
    """What an unknown name is, and what may have been meant."""
    below = [other for other in [*known, f"{SPACE}optim.lr"] if other.startswith(f"{name}.")]
    if below:
        return f"a table of settings; give those in it, such as {below[0]}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return "no setting; " + (f"did you mean {near[0]}?" if near else "see `saltray train --help` for the names")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """The value as the type of its setting has it; a whole number may stand for any number."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for choice in kinds:
        if typing.get_origin(choice) is tuple and isinstance(value, list):
            return tuple(_convert(item, typing.get_args(choice)[0], where) for item in value)
        if type(value) is choice or (typing.get_origin(choice) is Literal and value in typing.get_args(choice)):
            return value
        if choice is float and type(value) is int:
            return float(value)
    raise ConfigError(f"{where} is {json.dumps(value, default=str)}; it takes {' or '.join(map(_kind_text, kinds))}")


def _kind_text(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return "a list of whole numbers" if typing.get_origin(kind) is tuple else KINDS[kind]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
