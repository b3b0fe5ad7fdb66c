"""The rooms import only downwards, side effects stay in their rooms, settings stand once, the front door is light."""

import ast
import graphlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from samples import ensemble_manifest

import saltray
from saltray.cli import app
from saltray.cli.flags import RunFlags, SearchFlags, TrainFlags
from saltray.config import Config, SearchConfig
from saltray.runs.records import RunManifest
from saltray.storage.uri import open_store

PACKAGE = Path(saltray.__file__).parent
FLOORS = [
    {"errors", "wording"},
    {"records", "version"},
    {"config", "progress", "storage"},
    {"data", "models", "recipes"},
    {"training"},
    {"report"},
    {"ensemble"},
    {"runs"},
    {"search"},  # above runs: a trial has the history and the checkpoints of a fold
    {"distributed"},
    {"commands"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
RAY_INTERNALS = "distributed/ray_internals.py"


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


every_module = pytest.mark.parametrize("path", MODULES, ids=relative)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.with_suffix("").relative_to(PACKAGE.parent).parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, *, for_type_checkers: bool = True) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a file, lazy ones included; the name is empty for `import module`."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    skipped = set() if for_type_checkers else {id(node) for node in nodes_for_type_checkers(tree_of(path))}
    for node in ast.walk(tree_of(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.suffix == ".pyi", f"{path}: relative import"
            module = f"{package}.{node.module}" if node.level else node.module or ""
            yield from ((module, alias.name) for alias in node.names)


def nodes_for_type_checkers(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                yield from ast.walk(inner)


# Rooms


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} == set(LEVEL)


@every_module
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    for module, name in imports(path):
        package, _, other = module.partition(".")
        other = other.partition(".")[0]
        if package != "saltray" or other == room:
            continue
        if not other:
            assert room == "cli", f"{room} imports the front door"
            continue
        assert LEVEL[other] < LEVEL[room], f"{room} imports {module}, which is not below it"
        assert not name.startswith("_"), f"{room} imports the private {name} of {module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    files = {module_of(path): path for path in MODULES} | {"saltray": PACKAGE / "__init__.pyi"}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = {
            f"{other}.{name}" if f"{other}.{name}" in files else other
            for other, name in imports(path, for_type_checkers=False)
        }
        graph[module] = found & set(files)
    assert len(graph["saltray.cli.app"]) > 5
    assert len(graph["saltray"]) > 20
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem == "__init__" and path.parent != PACKAGE], ids=relative
)
def test_a_sub_package_is_a_docstring(path: Path) -> None:
    assert len(tree_of(path).body) == 1
    assert ast.get_docstring(tree_of(path))


# Side effects


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("ray", {"distributed"}),
        ("boto3", {"storage"}),
        ("botocore", {"storage"}),
        ("rich", {"cli"}),
        ("tyro", {"cli"}),
    ],
)
def test_one_room_for_each_library(library: str, rooms: set[str]) -> None:
    users = {room_of(path) for path in MODULES for module, _ in imports(path) if module.split(".")[0] == library}
    assert users <= rooms
    assert users


@every_module
def test_only_the_command_line_prints(path: Path) -> None:
    if room_of(path) != "cli":
        called = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
        assert not called & {"print", "sys.stdout.write", "sys.stderr.write"}


def private_names_of_ray(path: Path) -> set[str]:
    """Modules of Ray that are not public, and underscore attributes of what may be Ray's."""
    found: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        for origin, name in names:
            if origin.partition(".")[0] != "ray":
                continue
            bound.add(name)
            private = any(part.startswith("_") for part in origin.split("."))
            if private or origin.startswith(("ray.core.generated", "ray.train.v2")):
                found.add(origin)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            name = root.id if isinstance(root, ast.Name) else ""
            if name in bound or (room_of(path) == "distributed" and name not in ("self", "cls")):
                found.add(ast.unparse(node))
    return found


@every_module
def test_private_names_of_ray_stand_in_one_file(path: Path) -> None:
    assert bool(private_names_of_ray(path)) == (relative(path) == RAY_INTERNALS)


# Settings


@pytest.mark.parametrize(("flags", "settings"), [(TrainFlags, Config), (RunFlags, Config), (SearchFlags, SearchConfig)])
def test_flags_have_the_settings_and_their_defaults(flags: type[Any], settings: type[Any]) -> None:
    own = {item.name: default_of(item) for item in fields(flags)}
    for item in fields(settings):
        if item.default is MISSING and item.default_factory is MISSING:  # required: tyro says so itself
            continue
        assert own[item.name] == default_of(item)
    assert set(own) - {item.name for item in fields(settings)} <= {"config_file"}


def default_of(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


VERBS = {
    app.demo: saltray.demo,
    app.synth: saltray.synth,
    app.range_test: saltray.range_test,
    app.train: saltray.train,
    app.plan: saltray.plan,
    app.compare: saltray.compare,
    app.report: saltray.write_report,
    app.predict: saltray.predict,
    app.serve: saltray.serve,
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_verb_has_the_defaults_of_its_function(verb: Any) -> None:
    mine, below = (inspect.signature(function).parameters for function in (verb, VERBS[verb]))
    common = (set(mine) & set(below)) - {"observer"}
    assert common
    for name in common:
        if below[name].default is not inspect.Parameter.empty:
            assert str(mine[name].default) == str(below[name].default), name


# The front door


def modules_after(code: str) -> set[str]:
    script = f"import sys, atexit\natexit.register(lambda: print('\\n', *sorted(sys.modules)))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def modules_of(*words: str) -> set[str]:
    loaded = modules_after(f"sys.argv = ['saltray', *{words!r}]\nfrom saltray.cli.app import main\nmain()")
    assert "saltray.cli.flags" in loaded
    return loaded


HEAVY = {"torch", "ray", "pandas", "pyarrow", "boto3", "matplotlib", "optuna"}


def test_importing_loads_nothing() -> None:
    loaded = modules_after("import saltray")
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("saltray")} == {"saltray"}


@pytest.mark.parametrize("words", ["--help", "train --help", "tune --help", "predict --help"])
def test_help_is_light(words: str) -> None:
    assert not HEAVY & modules_of(*words.split())


@pytest.fixture
def store(tmp_path: Path) -> str:
    """URI of a store with a run that was created, and an ensemble by its manifest."""
    root, config = open_store(str(tmp_path)), Config(data="d")
    run = RunManifest(run="r1", identity="0" * 64, config=config, dataset="0" * 64, provenance={})
    root.put_record("runs/r1/manifest.json", run)
    manifest = ensemble_manifest(name="e1", config=config)
    root.put_record("ensembles/e1/v1/manifest.json", manifest)
    return root.uri


@pytest.mark.parametrize("words", [["status", "--run", "r1", "--store"], ["status", "--store"], ["ensemble", "list"]])
def test_looking_at_a_store_is_light(store: str, words: list[str]) -> None:
    loaded = modules_of(*words, store)
    assert loaded & {"saltray.runs.status", "saltray.ensemble.versions"}
    assert not HEAVY & loaded
