"""A configuration as a file and back, the differences of two, and the schema of such files."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import DIGEST, ensemble_manifest

import saltray
from saltray.config import Choice, Config, LateLossConfig, ModelConfig, PretrainConfig, Range, SearchConfig, TrainConfig
from saltray.errors import ConfigError, NotFoundError
from saltray.records import UNSET, field_types, replace_fields, to_record
from saltray.runs.records import RunManifest
from saltray.search.space import FIXED, SECTIONS
from saltray.storage.uri import open_store

SCHEMA = saltray.config_schema()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda text: text != UNSET)
NUMBERS = st.floats(0, 1e6) | st.floats(0, 1) | st.integers(0, 10)
SPACES = st.dictionaries(
    st.sampled_from(["optim.lr", "loss.bce", "augment.flip"]),
    st.builds(Range, st.floats(1e-9, 0.1), st.floats(0.2, 1), log=st.booleans())
    | st.builds(Choice, st.lists(st.floats(0.1, 1), min_size=1, max_size=3, unique=True).map(tuple)),
    min_size=1,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if NoneType in get_args(kind):
        return st.none() | values_of(next(other for other in get_args(kind) if other is not NoneType))
    known = {bool: st.booleans(), int: st.integers(0, 300), float: NUMBERS, str: TEXTS}
    return known.get(kind, st.lists(st.integers(0, 4), min_size=1, unique=True).map(tuple))


def with_random(start: Any, draw: st.DrawFn) -> Any:
    """The settings with other values for some of the fields, those that fit together."""
    types = {name: kind for name, kind in field_types(type(start)).items() if name not in ("recipe", "space")}
    for name in draw(st.lists(st.sampled_from(list(types)), max_size=12)):
        try:
            start = replace_fields(start, {name: draw(values_of(types[name]))})
        except ConfigError:
            continue
    return start


@st.composite
def files(draw: st.DrawFn) -> tuple[Config, SearchConfig, PretrainConfig]:
    start = draw(st.sampled_from([Config, *saltray.recipes.RECIPES.values()]))(data="d")
    search = SearchConfig(space=draw(SPACES)) if draw(st.booleans()) else SearchConfig()
    return with_random(start, draw), with_random(search, draw), with_random(PretrainConfig(), draw)


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(configured=files())
def test_a_file_is_read_as_the_same_configuration(
    configured: tuple[Config, SearchConfig, PretrainConfig], tmp_path: Path
) -> None:
    text = saltray.config_toml(*configured)
    path = tmp_path / "job.toml"
    path.write_text(text)
    read = (saltray.load_config, saltray.load_search_config, saltray.load_pretrain_config)
    assert tuple(load(str(path)) for load in read) == configured
    jsonschema.validate(tomllib.loads(text), SCHEMA)


def test_a_file_sets_back_what_a_recipe_has_set(tmp_path: Path) -> None:
    config = replace(saltray.recipes.best(data="d"), late_loss=LateLossConfig())
    (tmp_path / "job.toml").write_text(saltray.config_toml(config))
    assert saltray.load_config(f"{tmp_path}/job.toml") == config
    (tmp_path / "job.toml").write_text("data = 'd'\nrecipe = 'best'\nlate_loss.after = 'unset'\nlate_loss.lovasz_elu=0")
    assert saltray.load_config(f"{tmp_path}/job.toml") == config


def test_only_a_field_that_may_be_null_is_unset(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("data = 'unset'\n[train]\nepochs = 'unset'")
    with pytest.raises(ConfigError, match='train.epochs is "unset"; it should be a valid integer'):
        saltray.load_config(f"{tmp_path}/job.toml")


def test_a_search_and_a_pretraining_are_written_where_they_have_settings() -> None:
    assert saltray.config_toml(Config(data="d"), SearchConfig(), PretrainConfig()) == saltray.config_toml(
        Config(data="d")
    )
    text = saltray.config_toml(Config(data="d"), SearchConfig(trials=3), PretrainConfig(patch=8))
    assert tomllib.loads(text)["search"]["trials"] == 3
    assert tomllib.loads(text)["pretrain"]["patch"] == 8


def test_a_recipe_of_another_version_is_a_comment(tmp_path: Path) -> None:
    config = replace(saltray.recipes.best(data="d"), recipe="best-0")
    (tmp_path / "job.toml").write_text(saltray.config_toml(config))
    assert (tmp_path / "job.toml").read_text().startswith("# best-0, ")
    assert saltray.load_config(f"{tmp_path}/job.toml") == replace(config, recipe=None)


def test_a_recipes_settings_leave_the_data_to_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(saltray.config_toml(saltray.recipes.blog(data="-")))
    with pytest.raises(ConfigError, match="data is missing"):
        saltray.load_config(f"{tmp_path}/job.toml")


# Differences


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the run r7 and its ensemble e, which was trained for longer."""
    monkeypatch.chdir(tmp_path)
    root = open_store("s")
    config = Config(data="d", run="r7", model=ModelConfig(encoder="resnet18"))
    root.put_record(
        "runs/r7/manifest.json", RunManifest(run="r7", config=config, identity=DIGEST, dataset=DIGEST, provenance={})
    )
    longer = replace(config, train=TrainConfig(epochs=70))
    root.put_record("ensembles/e/v1/manifest.json", ensemble_manifest(name="e", version="v1", run="r7", config=longer))
    return "s"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("fast", "fast-2", {}),
        ("blog", "blog.toml", {"train.epochs": (500, 3)}),
        ("blog.toml", "blog", {"train.epochs": (3, 500)}),
        ("s/runs/r7", "s/ensembles/e", {"train.epochs": (60, 70)}),
        ("s/runs/r7", "here.json", {"run": ("r7", "r8"), "model.encoder": ("resnet18", None)}),
    ],
)
def test_the_differences_of_two(store: str, first: str, second: str, expected: dict[str, Any]) -> None:
    Path("blog.toml").write_text("recipe = 'blog'\n[train]\nepochs = 3")
    Path("here.json").write_text(json.dumps({"run": "r8", "store": "s"}))
    assert saltray.config_diff(first, second) == expected


def test_what_has_no_settings(store: str) -> None:
    with pytest.raises(ConfigError, match="'bset' is no recipe, .*; did you mean best\\?"):
        saltray.config_diff("bset", "fast")
    with pytest.raises(ConfigError, match="'r7' is no recipe, no .toml .* and no STORE/runs/NAME .*; the recipes are"):
        saltray.config_diff("fast", "r7")
    with pytest.raises(NotFoundError, match=r"no run r8 in .*; there are r7; did you mean r7\?"):
        saltray.config_diff("fast", "s/runs/r8")


# The schema


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft7Validator.META_SCHEMA["$schema"]


def property_of(name: str) -> dict[str, Any]:
    """Of a setting of a run by dotted name."""
    section, _, last = name.rpartition(".")
    part = SCHEMA
    if section:
        part = SCHEMA["$defs"][SCHEMA["properties"][section]["$ref"].rpartition("/")[2]]
    found: dict[str, Any] = part["properties"][last]
    return found


def test_every_setting_is_explained_with_its_default_and_choices() -> None:
    config = to_record(Config(data="d"))
    for name, kind in field_types(Config).items():
        found = property_of(name)
        assert found["description"], name
        section, _, last = name.rpartition(".")
        if name != "data":
            assert found["default"] == (config[section] if section else config)[last], name
        if get_origin(kind) is Literal:
            assert found["enum"] == list(get_args(kind))
        if section == "cluster":
            assert SCHEMA["properties"][last] == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data = 'd'\nrecipe = 'best'",
        "recipe = 'unset'\nworkers_per_fold = 2\ngpus-per-worker = 'unset'\n[cluster]\ncpus_per_worker = 0.5",
        "[train]\nbatch-size = 64\ninput_size = 256\n[late-loss]\nlovasz-elu = 1\nafter = 3",
        "[search]\ntrials = 4\nfolds = [0, 1]\n[search.space]\noptim.lr = 'log:1e-5:1'\n'train.batch-size' = [1, 2]",
        "[search.space]\nlate-loss.lovasz_elu = 1\n'late_loss.focal' = 0.5\nmodel.scse = [true, false]",
        "[pretrain]\nname = 'p7'\nhidden = 0.5",
    ],
)
def test_a_file_that_is_read_fits_the_schema(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text if "data" in text else f"data = 'd'\n{text}")
    saltray.load_config(f"{tmp_path}/job.toml")
    jsonschema.validate(tomllib.loads(text), SCHEMA, jsonschema.Draft7Validator)


def test_a_json_file_may_name_its_schema(tmp_path: Path) -> None:
    record = {"$schema": "saltray.schema.json", **to_record(Config(data="d"))}
    (tmp_path / "job.json").write_text(json.dumps(record))
    assert saltray.load_config(f"{tmp_path}/job.json") == Config(data="d")
    jsonschema.validate(record, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    "text",
    [
        "dta = 'd'",
        "recipe = 'bset'",
        "[train]\nepoch = 3",
        "[train]\nepochs = 'many'",
        "[train]\nepochs = 'unset'",
        "[model]\narchitecture = 'unett'",
        "[cluster]\nworkers = 2",
        "[search]\ntrial = 5",
        "[search.space]\noptim.lrr = [1]",
        "[search.space]\n'optim.lrr' = [1]",
        "[search.space]\noptim.lr = []",
        "[pretrain]\npatches = 3",
    ],
)
def test_a_file_with_a_slip_does_not_fit_the_schema(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), SCHEMA, jsonschema.Draft7Validator)


def test_what_can_be_searched_is_offered() -> None:
    space = SCHEMA["$defs"]["SearchConfig"]["properties"]["space"]["properties"]
    fields = {name for name in field_types(Config) if name.partition(".")[0] in SECTIONS} - set(FIXED)
    assert {name for name in space if "." in name} == fields
    assert {f"{section}.{name}" for section in SECTIONS for name in space[section]["properties"]} == fields
