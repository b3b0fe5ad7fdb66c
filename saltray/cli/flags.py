"""Flags from the configuration's dataclasses, with the settings of a file as their defaults."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any

import tyro
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from saltray.config import ClusterConfig, Config, SearchConfig, Space, loguniform
from saltray.errors import ConfigError

WITH_SETTINGS = ("plan", "train", "tune", "range-test", "run")
"""Verbs with the settings of a run."""
RENAMED = {
    "--lr-from": "--from-search",
    "--range-test": "the verb range-test in place of tune",
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


def _parse_space(words: list[str]) -> Space:
    from saltray.search.space import parse_space

    return parse_space(words)


SPACE_FLAG = PrimitiveConstructorSpec(
    nargs="*",
    metavar="FIELD=VALUES",
    instance_from_str=_parse_space,
    is_instance=lambda value: isinstance(value, Mapping),
    str_from_instance=lambda space: [f"{name}={values}" for name, values in space.items()],
)


@dataclass(frozen=True, kw_only=True)
class TrainFlags(Config):
    """`Config` with the hardware's flags at the top level: --workers-per-fold, --gpus-per-worker."""

    data: str = tyro.MISSING
    """Tiles: a folder, a zip, s3://bucket/prefix, or a packed data set datasets/NAME of the store."""
    cluster: Annotated[ClusterConfig, arg(name="")] = field(default_factory=ClusterConfig)
    """The hardware."""
    config_file: Annotated[str | None, arg(name="config", metavar="FILE")] = None
    """A TOML or JSON file, a path or s3://bucket/key, with any of these settings; flags on the command line win."""

    def __post_init__(self) -> None:
        """No checks: a file and the command line may each have half of what belongs together."""

    def config(self) -> Config:
        """The settings as the functions of the library take them.

        Raises:
            ConfigError: they are impossible.
        """
        return Config(**{item.name: getattr(self, item.name) for item in fields(Config)})


@dataclass(frozen=True, kw_only=True)
class RunFlags(TrainFlags):
    """The same for `saltray run`, where --run would be said twice."""

    run: Annotated[str, arg(name="name")] = "r1"
    """Name of the run; the same name again finishes what is missing."""


@dataclass(frozen=True, kw_only=True)
class SearchFlags(SearchConfig):
    """`SearchConfig` with --trials in short, and a space as words."""

    trials: Annotated[int, arg(aliases=("--trials",))] = 16
    """Largest number of trials."""
    space: Annotated[Space, SPACE_FLAG] = field(default_factory=lambda: {"optim.lr": loguniform(1e-5, 1e-2)})
    """Values to search, FIELD=log:LOW:HIGH, FIELD=lin:LOW:HIGH or FIELD=A,B,C, separated by blanks. Fields that are all
    lists make a grid."""


def with_file(function: Callable[..., None], words: Sequence[str], **kinds: type[Any]) -> Callable[..., None]:
    """A verb's function with the settings of the file that --config names as its defaults, if it names one.

    Args:
        function: the verb.
        words: the command line, the verb first.
        kinds: parameter of the function -> its class, `TrainFlags` or a subclass, or `SearchFlags`.

    Raises:
        ConfigError: the file cannot be parsed, or a setting is unknown, of the wrong type or impossible.
        StorageError: it does not exist, or cannot be read.
    """
    uri = _value_of("--config", words)
    if uri is None:
        return function
    from saltray.commands.load_config import SettingsFile

    file = SettingsFile.read(uri)
    search = file.as_search()
    defaults = {
        name: SearchFlags(**vars(search)) if kind is SearchFlags else file.as_config(kind)
        for name, kind in kinds.items()
    }
    return partial(function, **defaults)


def refuse_misused(words: Sequence[str]) -> None:
    """Refuse flags by their old names, and one that would silently replace itself.

    Raises:
        ConfigError: one is there; the message says what to use instead.
    """
    if not words or words[0] not in WITH_SETTINGS:
        return
    renamed = RENAMED | ({"--run": "--name"} if words[0] == "run" else {})
    for word in words[1:]:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in renamed:
            raise ConfigError(f"{flag} is now {renamed[flag]}; use that")
    if sum(word.partition("=")[0] == "--search.space" for word in words) > 1:
        raise ConfigError("--search.space is there twice; give all fields after one, separated by blanks")


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    """The last value of a flag on the command line."""
    value = None
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, text = word.partition("=")
        if name == flag:
            value = text if equals else after
    return value or None
