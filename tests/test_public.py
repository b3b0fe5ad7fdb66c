"""The public surface: each name once in `__init__.pyi`, the same for type checkers and at run time."""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

import saltray
from saltray import errors, progress

STUB = ast.parse((Path(saltray.__file__).parent / "__init__.pyi").read_text())
IMPORTS = [
    (f"saltray.{node.module}", alias.name, alias.asname)
    for node in STUB.body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
]
MODULES = [
    alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) and not node.module for alias in node.names
]
"""Public as a whole."""
NAMES = [name for _, name, _ in IMPORTS]
COMMANDS = sorted(
    path.stem for path in (Path(saltray.__file__).parent / "commands").glob("*.py") if path.stem != "__init__"
)


def test_the_stub_has_each_name_once_and_nothing_else() -> None:
    assert all(isinstance(node, ast.ImportFrom) and node.level == 1 for node in STUB.body)
    assert all(name == own for _, name, own in IMPORTS)  # `import x as x`: type checkers take it as public
    assert not [name for name, count in Counter(NAMES).items() if count > 1]
    assert sorted(vars(saltray)["__all__"]) == sorted(NAMES + MODULES)
    assert set(NAMES + MODULES) <= set(dir(saltray))


@pytest.mark.parametrize(("module", "name", "_"), IMPORTS, ids=NAMES)
def test_a_name_is_what_its_module_defines(module: str, name: str, _: str) -> None:
    value = getattr(saltray, name)
    assert value is getattr(importlib.import_module(module), name)
    assert not isinstance(value, ModuleType)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__ == module  # defined there, and not only imported
        assert value.__doc__
        assert value.__name__ == name


def test_all_of_it_can_be_imported_at_once_and_none_is_hidden_by_a_module() -> None:
    """In a process of its own, where each import of a sub-module sets an attribute of the package."""
    script = f"""
from types import ModuleType
from saltray import *
names = {NAMES!r}
assert not [name for name in names if isinstance(globals()[name], ModuleType)]
import saltray
for module in {sorted({module for module, _, _ in IMPORTS})!r}:
    __import__(module)
assert not [name for name in names if getattr(saltray, name) is not globals()[name]]
import sys
assert "ray" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_recipes_are_public_as_a_module() -> None:
    assert MODULES == ["recipes"]
    script = "import saltray; assert saltray.recipes.best(data='d').data == 'd'"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_another_name_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = getattr(saltray, "no_such_name")  # noqa: B009 - type checkers know as well


def test_every_exception_is_public() -> None:
    raised = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert len(raised) > 10
    assert raised <= set(NAMES)
    assert all(issubclass(getattr(saltray, name), saltray.SaltrayError) for name in raised)


def test_every_command_is_public() -> None:
    """A verb is a function is a file; `config`, `ensemble` and `status` have others, and four are parts of verbs."""
    verbs = {name for module, name, _ in IMPORTS if module.startswith("saltray.commands.") and name.islower()}
    others = {
        "config": "config_toml",
        "ensemble": "list_ensembles",
        "load_config": "load_search_config",
        "report": "write_report",  # a room is called saltray.report
        "status": "list_runs",
    }
    own = {others.get(name, name) for name in COMMANDS if name not in ("prepare", "publish_run", "root", "run_page")}
    assert verbs == own | {
        "config_diff",
        "config_schema",
        "status",
        "list_pretrainings",
        "load_config",
        "load_pretrain_config",
    }


@pytest.mark.parametrize("name", ["train", "tune", "pretrain", "range_test", "run", "predict", "demo"])
def test_a_command_that_takes_time_has_an_observer(name: str) -> None:
    parameter = inspect.signature(getattr(saltray, name)).parameters["observer"]
    assert parameter.default is progress.log_event
    assert parameter.kind is parameter.KEYWORD_ONLY


def test_the_networks_are_public() -> None:
    for network in (saltray.AlbuNet, saltray.UNet, saltray.TernausNet):
        assert issubclass(network, nn.Module)
    for method in ("load", "verify", "card", "predict"):
        assert callable(getattr(saltray.Ensemble, method))


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    assert saltray.__version__ == project["version"]
