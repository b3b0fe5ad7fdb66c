"""Flags from the configuration's dataclasses, with the settings of a file as their defaults."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from saltray.config import NO_DATA, ClusterConfig, Config, PretrainConfig, SearchConfig, Space
from saltray.errors import ConfigError
from saltray.recipes import RECIPES, recipe_settings
from saltray.records import UNSET

RENAMED_IN_SEARCH = {
    "--search": "--search.space",
    "--search-name": "--search.name",
    "--search-seed": "--search.seed",
    "--search-epochs": "--search.epochs",
    "--folds": "--search.folds",
    "--sampler": "--search.sampler",
    "--prune": "--search.prune",
    "--no-prune": "--search.no-prune",
    "--concurrent": "--search.concurrent",
}
RENAMED_LOSS = {"--train.bce": "--loss.bce", "--train.dice": "--loss.dice"}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "train": {"--lr-from": "--from-search", **RENAMED_LOSS},
    "tune": {"--range-test": "the verb range-test", **RENAMED_IN_SEARCH, **RENAMED_LOSS},
    "run": {"--run": "--name", **RENAMED_IN_SEARCH, **RENAMED_LOSS},
    "plan": RENAMED_LOSS,
    "range-test": RENAMED_LOSS,
}
"""Verb -> flag that it once had -> what to use instead."""
ONCE = {
    "--config": "put all settings into one file",
    "--recipe": "choose one",
    "--search.space": "give all fields after one, separated by blanks",
}
"""Flags whose last use would silently replace the others, and what to do instead."""
Verbose = Annotated[
    bool, FlagCreatePairsOff, arg(help="Show the output of Ray and its workers, which is in their logs otherwise.")
]
REGISTRY = ConstructorRegistry()
"""How words become values, beside what tyro knows itself."""


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`--flag INT` and `(default: unset)` for `int | None`, where tyro has `{None}|INT` and `(default: None)`."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if NoneType not in get_args(info.type) or len(kinds) != 1:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return replace(
        spec,
        instance_from_str=lambda words: None if words == [UNSET] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [UNSET] if value is None else spec.str_from_instance(value),
    )


@REGISTRY.primitive_rule
def _space(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """FIELD=VALUES, any number of them."""
    if info.type != Space:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="FIELD=VALUES",
        instance_from_str=_parse_space,
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda space: [f"{name}={values}" for name, values in space.items()],
    )


@REGISTRY.primitive_rule
def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Whole numbers, separated by commas or blanks."""
    if info.type != tuple[int, ...]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT,INT",
        instance_from_str=lambda words: tuple(map(int, filter(None, ",".join(words).split(",")))),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(number, int) for number in value),
        str_from_instance=lambda numbers: [",".join(map(str, numbers))],
    )


def _parse_space(words: list[str]) -> Space:
    from saltray.search.space import parse_space

    return parse_space(words)


@dataclass(frozen=True, kw_only=True)
class FileSettings(Config):
    """`Config` without its checks: a file and the command line may each have half of what belongs together."""

    data: str = tyro.MISSING

    def __post_init__(self) -> None:
        """No checks."""


@dataclass(frozen=True, kw_only=True)
class TrainFlags(FileSettings):
    """`Config` with the hardware's flags at the top level: --workers-per-fold, --gpus-per-worker."""

    cluster: Annotated[ClusterConfig, arg(name="")] = field(default_factory=ClusterConfig)
    config_file: Annotated[str | None, arg(name="config", metavar="FILE")] = None
    """A TOML or JSON file, a path or s3://bucket/key, with any of these settings; or STORE/runs/NAME or
    STORE/ensembles/NAME: all settings of that run, which is resumed unless --run is given. Other flags win."""

    def config(self) -> Config:
        """The settings as the functions of the library take them.

        Raises:
            ConfigError: they are impossible.
        """
        settings = {item.name: getattr(self, item.name) for item in fields(Config)}
        if self.recipe in RECIPES:
            settings["recipe"] = recipe_settings(self.recipe).recipe
        return Config(**settings)


@dataclass(frozen=True, kw_only=True)
class ShowFlags(TrainFlags):
    """The same for settings that need no data yet, as in a recipe."""

    data: str = NO_DATA
    """Tiles; without them the file has none, and leaves them to the command line."""


@dataclass(frozen=True, kw_only=True)
class RunFlags(TrainFlags):
    """The same for `saltray run`, where --run would be said twice."""

    run: Annotated[str, arg(name="name")] = Config.run


@dataclass(frozen=True, kw_only=True)
class SearchFlags(SearchConfig):
    """`SearchConfig` with --trials in short."""

    trials: Annotated[int, arg(aliases=("--trials",))] = SearchConfig.trials


def kinds_of(function: Callable[..., None]) -> dict[str, type[Any]]:
    """Those parameters of a verb that are settings, and their classes."""
    kinds = (TrainFlags, SearchFlags, PretrainConfig)
    hints = get_type_hints(function).items()
    return {name: kind for name, kind in hints if isinstance(kind, type) and issubclass(kind, kinds)}


def with_file(function: Callable[..., None], words: Sequence[str]) -> Callable[..., None]:
    """A verb's function with the settings of --config's file and of --recipe as its defaults, where they are given.

    Args:
        function: the verb; of its parameters, those count whose class is that of settings.
        words: the command line.

    Raises:
        ConfigError: the file cannot be parsed, a setting is unknown, of the wrong type or impossible, or there is no
            such recipe.
        StorageError: it does not exist, or cannot be read.
    """
    uri, recipe = (_value_of(flag, words) for flag in ("--config", "--recipe"))
    kinds = kinds_of(function)
    if not kinds or (uri is None and recipe is None):
        return function
    from saltray.commands.load_config import SettingsFile

    file = SettingsFile(uri or "--recipe", {}, {}, {}) if uri is None else SettingsFile.read(uri)
    read: dict[type[Any], Callable[[], Any]] = {SearchFlags: file.as_search, PretrainConfig: file.as_pretrain}
    defaults: dict[str, Any] = {}
    for name, kind in kinds.items():
        found = vars(read.get(kind, partial(file.as_config, FileSettings, recipe))())
        given = {field: value for field, value in found.items() if value is not tyro.MISSING}
        defaults[name] = kind(**given)
    return partial(function, **defaults)


def refuse_misused(words: Sequence[str]) -> None:
    """Refuse flags by their old names, and those that would silently replace themselves.

    Raises:
        ConfigError: one is there; the message says what to use instead.
    """
    flags = [word.partition("=")[0].replace("_", "-") for word in words]
    for flag in flags:
        if new := RENAMED.get(words[0], {}).get(flag):
            raise ConfigError(f"{flag} is now {new}; use that")
    for flag, remedy in ONCE.items():
        if flags.count(flag) > 1:
            raise ConfigError(f"{flag} is given twice; {remedy}")


def without(flag: str, words: Sequence[str]) -> list[str]:
    """The command line without a flag and its values."""
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0].replace("_", "-") == flag
        if not dropping:
            kept.append(word)
    return kept


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    """The value of a flag on the command line, if it is there and has one."""
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, text = word.partition("=")
        if name == flag:
            return (text if equals else after) or None
    return None
