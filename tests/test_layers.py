"""The rooms import only downwards, side effects stay behind their seams, and the front door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import saltray

PACKAGE = Path(saltray.__file__).parent
FLOORS = [
    {"errors"},
    {"config", "storage"},
    {"config_file"},
    {"data", "models"},
    {"training"},
    {"ensemble"},
    {"report"},
    {"distributed"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import in a file, lazy ones and those for type checkers included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def test_every_module_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for module, name in imports(path):
        parts = module.split(".")
        if parts[0] != "saltray" or len(parts) == 1:
            continue
        other = parts[1]
        if other == room:
            continue
        assert LEVEL[other] < LEVEL[room], f"{room} imports {module}, which is not below it"
        assert not name.startswith("_"), f"{room} imports the private {name} of {module}"


@pytest.mark.parametrize(
    ("library", "rooms"), [("ray", {"distributed"}), ("boto3", {"storage"}), ("botocore", {"storage"})]
)
def test_one_room_for_each_outside_service(library: str, rooms: set[str]) -> None:
    users = {room_of(path) for path in MODULES for module, _ in imports(path) if module.split(".")[0] == library}
    assert users == rooms


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_import_and_help_load_neither_torch_nor_ray() -> None:
    assert not {"torch", "ray"} & modules_after("import saltray")
    help_text = "import saltray.cli\nsys.argv = ['saltray', '--help']\ntry: saltray.cli.main()\nexcept SystemExit: pass"
    loaded = modules_after(help_text)
    assert "saltray.cli" in loaded
    assert not {"torch", "ray", "pandas", "boto3"} & loaded


def test_status_loads_neither_torch_nor_ray_nor_pandas(tmp_path: Path) -> None:
    put_run = (
        "import saltray.cli\nfrom saltray.storage import open_store\n"
        f"store = open_store({str(tmp_path / 'runs/r1')!r})\n"
        "store.put_json('manifest.json', {'config': {'train': {'epochs': 9}, 'folds': {'count': 2}}})\n"
    )
    verb = f"sys.argv = ['saltray', 'status', '--store', {str(tmp_path)!r}, '--run', 'r1']\nsaltray.cli.main()"
    loaded = modules_after(put_run + verb)
    assert "saltray.distributed.progress" in loaded
    assert not {"torch", "ray", "pandas", "pyarrow", "boto3"} & loaded


def test_every_public_name_exists_and_is_no_module() -> None:
    code = (
        "import importlib, pkgutil, types, saltray\n"
        "for room in ['saltray'] + [f'saltray.{m.name}' for m in pkgutil.iter_modules(saltray.__path__) if m.ispkg]:\n"
        "    package = importlib.import_module(room)\n"
        "    for _ in range(2):\n"
        "        for name in package.__all__:\n"
        "            assert not isinstance(getattr(package, name), types.ModuleType), (room, name)\n"
    )
    modules_after(code)
