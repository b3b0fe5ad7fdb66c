"""Settings from a TOML or JSON file, local or in S3, by the names that `saltray train --help-all` gives; or of a run.

A run, a pretraining and an ensemble have all settings in their manifest. Theirs are taken as they are, but for the
store, which is the one where the manifest is now. The run's name is among them: the same command resumes that very
run, and another name repeats it anew.
"""

import codecs
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, TypeVar, get_args

from saltray.config import Choice, ClusterConfig, Config, PretrainConfig, Range, SearchConfig, Space
from saltray.ensemble.layout import store_of_uri
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, NotFoundError
from saltray.recipes import recipe_settings
from saltray.records import UNSET, RecordError, field_types, flat, from_record, parse_json, to_record
from saltray.runs.layout import MANIFEST, PRETRAINED, RUNS, pretrained_folder
from saltray.runs.manifests import manifest_of
from saltray.runs.records import PretrainManifest, RunManifest
from saltray.runs.run import find_run
from saltray.search.space import list_values, parse_values
from saltray.storage.base import Store
from saltray.storage.near import near_uri
from saltray.storage.uri import open_object, open_store
from saltray.wording import excerpt, there_are

T = TypeVar("T")

MAX_BYTES = 2**18
MAX_DOTS = 200
"""Most dots in a TOML key: the time to read it grows with the square of its parts."""
# Comments and quoted texts; one that is not closed ends with the line or the file, which is no TOML then.
_NO_DOTS = re.compile(
    r"#[^\n]*"
    r'|"{3}(?:\\.|[^\\]|\\\Z)*?(?:"{3,5}|\Z)'
    r"|'{3}.*?(?:'{3,5}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?",
    re.DOTALL,
)
_TRAINED = re.compile(rf"(?:(.*)/)?({RUNS}|{PRETRAINED})/([^/]+)")
_LONG_KEY = re.compile(rf"(?:\.[ \t]*[\w-]+[ \t]*){{{MAX_DOTS + 1}}}")


@dataclass(frozen=True)
class SettingsFile:
    """The settings in a file, by section.

    The hardware's settings are in `[cluster]` or at the top, as on the command line; those of a search in `[search]`,
    and what it searches in `[search.space]`: a field, and its values as `--search.space` takes them, or a list of them;
    those of a pretraining in `[pretrain]`. As on the command line, `unset` stands for null.
    """

    uri: str
    config: Mapping[str, Any]
    search: Mapping[str, Any]
    pretrain: Mapping[str, Any]
    complete: bool = False
    """Whether these are all settings, as a manifest has them, so that no recipe may fill in any."""

    @classmethod
    def read(cls, uri: str) -> "SettingsFile":
        """Parse a file, or take the settings of a manifest.

        Args:
            uri: a path or s3://bucket/key of a TOML or JSON file; or STORE/runs/NAME, STORE/pretrained/NAME or
                STORE/ensembles/NAME, with or without the version and manifest.json at the end.

        Raises:
            ConfigError: the file cannot be parsed, or a setting is in it twice.
            EnsembleError, NotFoundError: there is no such ensemble, run or file.
            StorageError: it cannot be read.
        """
        if (found := cls._of_manifest(uri)) is not None:
            return found
        config = _parse(uri)
        config.pop("$schema", None)  # by which editors find the schema of a JSON file
        sections = ("search", "pretrain", "cluster")
        search, pretrain, cluster = (_table(config.pop(name, {}), f"{uri}: {name}") for name in sections)
        for name in field_types(ClusterConfig):
            if name in config and name in cluster:
                raise ConfigError(f"{uri}: {name} is given twice, at the top and in [cluster]; keep one of them")
            if name in config:
                cluster[name] = config.pop(name)
        return cls(uri, {**config, "cluster": cluster}, search, pretrain)

    @classmethod
    def _of_manifest(cls, uri: str) -> "SettingsFile | None":
        """The settings of a run, a pretraining or an ensemble; None if the URI has the form of none of them."""
        place = uri.rstrip("/").removesuffix(f"/{MANIFEST}").rstrip("/")
        if place.lower().endswith((".toml", ".json")):
            return None
        pretrain: Mapping[str, Any] = {}
        if (store := store_of_uri(place)) is not None:
            config = read_manifest(resolve(place)).config
        elif trained := _TRAINED.fullmatch(place):
            store, kind, name = trained[1] or ("/" if place[0] == "/" else "."), trained[2], trained[3]
            root = open_store(store)
            if kind == RUNS:
                config = manifest_of(find_run(root, name), RunManifest).config
            else:
                manifest = _pretraining(root, name)
                config, pretrain = manifest.config, to_record(manifest.pretrain)
        else:
            return None
        return cls(uri, to_record(replace(config, store=store)), {}, pretrain, complete=True)

    def as_config(self, kind: type[T], recipe: str | None = None) -> T:
        """The run's settings as a `Config`, or a subclass of it.

        Args:
            kind: the class.
            recipe: what the file leaves out has this recipe's value; by default that of the file's own recipe, and
                none for `unset`.

        Raises:
            ConfigError: a setting is unknown, missing, of the wrong type or impossible, or there is no such recipe.
        """
        if self.complete:  # whatever its recipe has become since
            if recipe is not None:
                raise ConfigError(f"{self.uri} gives all settings, so a recipe would change none; leave --recipe out")
            return self._parsed(kind, self.config)
        name = recipe if recipe is not None else self.config.get("recipe")
        if name == UNSET:
            return self._parsed(kind, {**self.config, "recipe": None})
        if not isinstance(name, str):
            return self._parsed(kind, self.config)
        settings = recipe_settings(name)
        base = {key: value for key, value in to_record(settings).items() if key not in ("data", "store", "run")}
        return self._parsed(kind, _merged(base, self.config) | {"recipe": settings.recipe})

    def as_search(self) -> SearchConfig:
        """The search's settings.

        Raises:
            ConfigError: a setting is unknown, of the wrong type or impossible.
        """
        rest = {name: value for name, value in self.search.items() if name != "space"}
        search = self._parsed(SearchConfig, rest, "search.")
        return search if "space" not in self.search else replace(search, space=self._space(self.search["space"]))

    def as_pretrain(self) -> PretrainConfig:
        """The pretraining's settings.

        Raises:
            ConfigError: a setting is unknown, of the wrong type or impossible.
        """
        return self._parsed(PretrainConfig, self.pretrain, "pretrain.")

    def _space(self, given: Any) -> Space:
        space: dict[str, Range | Choice] = {}
        for field, values in flat(_table(given, f"{self.uri}: search.space")):
            if field in space:
                raise ConfigError(f"{self.uri}: search.space.{field} is given twice; keep one of them")
            try:
                space[field] = parse_values(field, values) if isinstance(values, str) else list_values(field, values)
            except ConfigError as error:
                raise ConfigError(f"{self.uri}: {error}") from None
        return space

    def _parsed(self, kind: type[T], record: Mapping[str, Any], section: str = "") -> T:
        verb = "pretrain" if kind is PretrainConfig else "tune"
        optional = {name for name, hint in field_types(kind).items() if NoneType in get_args(hint)}
        try:
            return from_record(kind, _with_null(record, optional))
        except RecordError as error:
            raise ConfigError(f"{self.uri}: {section}{error}; `saltray {verb} --help-all` lists all settings") from None
        except ConfigError as error:
            raise ConfigError(f"{self.uri}: {error}") from None


def _pretraining(root: Store, name: str) -> PretrainManifest:
    try:
        return manifest_of(root.sub(pretrained_folder(name)), PretrainManifest)
    except NotFoundError as error:
        known = there_are(name, root.folders(PRETRAINED), "there are none yet; `saltray pretrain` creates one")
        raise NotFoundError(f"no pretraining {name} in {root.uri}; {known}") from error


def load_config(uri: str) -> Config:
    """The configuration in a file; what it leaves out has the value of its recipe, or the default.

    Its `[search]` and `[pretrain]` are ignored.

    Args:
        uri: a path or s3://bucket/key of a TOML or JSON file; or STORE/runs/NAME or STORE/ensembles/NAME, whose
            manifest has all settings, the run's name among them.

    Raises:
        ConfigError: it cannot be parsed, or a setting is unknown, missing, of the wrong type or impossible.
        EnsembleError, NotFoundError: there is no such ensemble, run or file.
        StorageError: it cannot be read.
    """
    return SettingsFile.read(uri).as_config(Config)


def load_search_config(uri: str) -> SearchConfig:
    """The search in the `[search]` of a file; what that leaves out has its default.

    Args:
        uri: as for `load_config`.

    Raises:
        as `load_config`.
    """
    return SettingsFile.read(uri).as_search()


def load_pretrain_config(uri: str) -> PretrainConfig:
    """The pretraining in the `[pretrain]` of a file; what that leaves out has its default.

    Args:
        uri: as for `load_config`.

    Raises:
        as `load_config`.
    """
    return SettingsFile.read(uri).as_pretrain()


def _parse(uri: str) -> dict[str, Any]:
    """The settings by Python's names."""
    kind = uri.rpartition(".")[2].lower()
    if kind not in ("toml", "json"):
        raise ConfigError(
            f"{uri} is neither a .toml nor a .json file, nor STORE/runs/NAME, STORE/pretrained/NAME or "
            "STORE/ensembles/NAME; name one of these"
        )
    store, key = open_object(uri)
    try:
        data = store.get(key, limit=MAX_BYTES)
    except NotFoundError as error:
        near = near_uri(uri, lambda found: found.lower().endswith((".toml", ".json")))
        remedy = f"did you mean {near}?" if near else "check the path"
        raise NotFoundError(f"there is no file {store.uri.rstrip('/')}/{key}; {remedy}") from error
    try:
        # Windows' editors write a byte-order mark, which tells UTF-16, too.
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        record = _parse_toml(text) if kind == "toml" else parse_json(text)
        return _with_underscores(_table(record, uri), uri)
    except RecursionError as error:
        raise ConfigError(f"{uri} is not {kind.upper()}: nested too deeply; correct it") from error
    except RecordError as error:
        raise ConfigError(f"{uri} is {error}; correct it") from error
    except UnicodeDecodeError as error:
        found = f"no {error.encoding.upper()} at byte {error.start}"
        raise ConfigError(f"{uri} is not {kind.upper()}: {found}; save it in UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{uri} is not {kind.upper()}: {error}; correct it") from error


def _parse_toml(text: str) -> dict[str, Any]:
    if _LONG_KEY.search(_NO_DOTS.sub(lambda found: "" if found[0][0] == "#" else "x", text)):
        raise ValueError(f"a name has more than {MAX_DOTS} dots")
    return tomllib.loads(text)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {excerpt(value)}; make it a table of names and values")
    return value


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    both = {
        name: _merged(base[name], value) if isinstance(base.get(name), dict) and isinstance(value, dict) else value
        for name, value in over.items()
    }
    return {**base, **both}


def _with_null(table: Mapping[str, Any], optional: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The same table with null for `unset`, where a field may be null."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            values[name] = _with_null(value, optional, f"{prefix}{name}.")
        else:
            values[name] = None if value == UNSET and f"{prefix}{name}" in optional else value
    return values


def _with_underscores(table: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """The same table with Python's names: input_size for input-size."""
    renamed: dict[str, Any] = {}
    for given, value in table.items():
        name = given.replace("-", "_")
        if name in renamed:
            raise ConfigError(f"{uri}: {given} is given twice; keep one of them")
        renamed[name] = _with_underscores(value, uri) if isinstance(value, dict) else value
    return renamed
