"""`saltray config`: the settings as a file, the settings in which two differ, and what a file may hold."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from saltray.commands.load_config import SettingsFile
from saltray.config import NO_DATA, Config, LossWeights, PretrainConfig, Range, SearchConfig
from saltray.errors import ConfigError
from saltray.recipes import RECIPES, recipe_settings
from saltray.records import UNSET, field_types, flat, to_record
from saltray.search.space import FIXED, SECTIONS
from saltray.wording import did_you_mean

PLACE = ("data", "store", "run")
"""What no recipe has, and a file may leave to the command line."""


def config_toml(config: Config, search: SearchConfig | None = None, pretrain: PretrainConfig | None = None) -> str:
    """All settings as a TOML file, which `load_config` reads as the same configuration.

    A recipe of another version of saltray is a comment there, as this one could not tell what it was.

    Args:
        config: the run; without data if that is "-", as in a recipe's settings.
        search: the `[search]` of the file; left out where it has only defaults.
        pretrain: the `[pretrain]`, in the same way.
    """
    record = to_record(config)
    head = ""
    if config.data == NO_DATA:
        del record["data"]
    if config.recipe is not None and config.recipe not in _versions():
        head = f"# {config.recipe}, a recipe of another version, had made:\n"
        del record["recipe"]
    if search is not None and search != SearchConfig():
        # Not `str(range)`, which has six digits.
        space = {
            name: f"{'log' if values.log else 'lin'}:{values.low!r}:{values.high!r}"
            if isinstance(values, Range)
            else values.values
            for name, values in search.space.items()
        }
        record["search"] = to_record(search) | {"space": space}
    if pretrain is not None and pretrain != PretrainConfig():
        record["pretrain"] = to_record(pretrain)
    return head + "\n".join(_toml_lines(record)) + "\n"


def config_diff(first: str, second: str) -> dict[str, tuple[Any, Any]]:
    """The settings of a run in which two configurations differ: dotted name -> its value in either.

    Where one of them has no data, store or run, as a recipe has none, those are not compared.

    Args:
        first: a recipe; a TOML or JSON file, a path or s3://bucket/key; STORE/runs/NAME or STORE/ensembles/NAME.
        second: in the same way.

    Raises:
        ConfigError: it is none of these, or a setting is wrong.
        EnsembleError, NotFoundError: there is no such ensemble, run or file.
        StorageError: something cannot be read.
    """
    one, other = _settings_of(first), _settings_of(second)
    return {name: (one[name], other[name]) for name in one if name in other and one[name] != other[name]}


def config_schema() -> dict[str, Any]:
    """The JSON schema of the TOML and JSON files that `load_config` reads, by which editors complete and check them."""
    # A dataclass takes the configuration of what it stands in, hence the tuple.
    config = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    kinds = TypeAdapter(tuple[Config, SearchConfig, PretrainConfig, LossWeights], config=config)
    parts: dict[str, Any] = kinds.json_schema()["$defs"]
    del parts["Range"], parts["Choice"]
    inherited = parts.pop("LossWeights")["properties"]  # pydantic finds no docstrings of a base's fields
    for part in parts.values():
        for name, value in part["properties"].items():
            if "description" not in value and name in inherited:
                value["description"] = inherited[name]["description"]
            if {"type": "null"} in value.get("anyOf", ()):
                value["anyOf"].append({"const": UNSET})
        part["patternProperties"] = _with_dashes(part["properties"])
    parts["SearchConfig"]["properties"]["space"] |= _space_schema()
    file = parts.pop("Config")
    del file["required"]  # the command line may have the rest
    file["properties"]["recipe"]["anyOf"][0] = {"enum": [*RECIPES, *_versions()]}
    for name in ("properties", "patternProperties"):
        file[name] |= parts["ClusterConfig"][name]
    for name, kind in (("search", "SearchConfig"), ("pretrain", "PretrainConfig")):
        file["properties"][name] = {"$ref": f"#/$defs/{kind}"}
    file["properties"]["$schema"] = {"type": "string"}
    value = {"type": ["string", "number", "boolean"]}
    parts["Values"] = {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **file, "title": "saltray", "$defs": parts}


def _versions() -> list[str | None]:
    """The recipes of this saltray, with their versions."""
    return [recipe_settings(name).recipe for name in RECIPES]


def _toml_lines(record: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for name, value in record.items():
        if not isinstance(value, dict):
            yield f"{_toml(name) if '.' in name else name} = {_toml(UNSET if value is None else value)}"
    for name, value in record.items():
        if isinstance(value, dict):
            yield f"\n[{section}{name}]"
            yield from _toml_lines(value, f"{section}{name}.")


def _toml(value: Any) -> str:
    """JSON's texts, numbers and lists are TOML's, but for surrogate pairs and the DEL character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def _settings_of(name: str) -> dict[str, Any]:
    """The settings by dotted name."""
    if "/" in name or name.lower().endswith((".toml", ".json")):
        file = SettingsFile.read(name)
        missing = [item for item in PLACE if item not in file.config]
        config = replace(file, config={"data": NO_DATA, **file.config}).as_config(Config)
    elif name in RECIPES or name in _versions():
        missing, config = list(PLACE), recipe_settings(name)
    else:
        raise ConfigError(
            f"{name!r} is no recipe, no .toml or .json file, and no STORE/runs/NAME or STORE/ensembles/NAME; "
            + did_you_mean(name, RECIPES, f"the recipes are {', '.join(RECIPES)}")
        )
    return {item: value for item, value in flat(to_record(config)) if item not in missing}


def _space_schema() -> dict[str, Any]:
    """Of what may be searched: `optim.lr` as one name, or `lr` in a table `optim`; texts, values or lists of them."""
    values = {"$ref": "#/$defs/Values"}
    tables: dict[str, Any] = {}
    for field in field_types(Config):
        section, _, name = field.partition(".")
        if section in SECTIONS and field not in FIXED:
            tables.setdefault(section, {})[name] = values
    both = {f"{section}.{name}": values for section, table in tables.items() for name in table}
    for section, table in tables.items():
        both[section] = _object(table)
    return _object(both)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": _with_dashes(properties),
        "additionalProperties": False,
    }


def _with_dashes(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The other spellings of names that have an underscore."""
    return {f"^{re.escape(name).replace('_', '[_-]')}$": value for name, value in properties.items() if "_" in name}
