"""docker/Dockerfile: hadolint's rules, and checks of this project's own. Each is shown to find a fault."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .dockerfile import Stage, parse

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = ("gpu", "cpu")

Stages = dict[str, Stage]


def lint(text: str) -> str:
    command = [str(Path(sys.executable).with_name("hadolint")), "--no-color", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_hadolint_finds_nothing() -> None:
    assert lint(DOCKERFILE.read_text()) == ""


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("debian:bookworm-20260824-slim", "debian:latest", "DL3007"),
        (" --no-install-recommends", "", "DL3015"),
        ("rm -rf /var/lib/apt/lists/*", "true", "DL3009"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("COPY pyproject.toml ./", "ADD pyproject.toml ./", "DL3020"),
        ('CMD ["saltray", "--help"]', "CMD saltray --help", "DL3025"),
        ("install --yes", "install", "DL3014"),
        ("USER 1000", "USER root", "DL3002"),
        ('echo "PATH=$PATH"', "echo PATH=$(printenv PATH)", "SC2046"),
    ],
)
def test_hadolint_finds_what_matters(old: str, new: str, rule: str) -> None:
    assert rule in lint(replaced(DOCKERFILE, old, new))


def check_every_copied_path_is_in_the_context(stages: Stages) -> None:
    context = sent()
    for stage in stages.values():
        for copy in stage.all("COPY"):
            if (origin := copy.flags.get("from")) is not None:
                assert origin in stages
                continue
            for source in copy.words[:-1]:
                assert source in context, f"{stage.name} copies {source}"


def check_the_package_has_the_files_for_its_build(stages: Stages) -> None:
    copied = {source for copy in stages["package"].all("COPY") for source in copy.words[:-1]}
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"pyproject.toml", project["readme"], *project["license-files"], *packages} <= copied


def check_a_change_of_the_source_keeps_dependencies(stages: Stages) -> None:
    for target in TARGETS:
        copied = [copy.words[:-1] for copy in stages[f"{target}-packages"].all("COPY")]
        assert copied == [["pyproject.toml"]]
        own = [each.name for each in stages[target].own]
        assert own.index("COPY") < own.index("RUN")  # dependencies below the package


def check_all_versions_are_the_projects(stages: Stages) -> None:
    """Only uv's version is in the Dockerfile; the rest comes from pyproject.toml, or is the wheel built before."""
    commands = [run.rest for stage in stages.values() for run in stage.own if run.name == "RUN"]
    assert re.findall(r"[\w.-]+(?=[=<>~!]=)", " ".join(commands)) == ["uv"]
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 1 + 2 * len(TARGETS)
    for command in installs:
        assert re.search(r"pip install .*(--requirements pyproject\.toml|--no-deps .*\.whl|uv==[\d.]+$)", command)
    extras = PROJECT["project"]["optional-dependencies"]
    for target in TARGETS:
        (install,) = (run.rest for run in stages[f"{target}-packages"].own)
        assert set(re.findall(r"--extra (\w+)", install)) == set(extras)
    assert "--torch-backend cpu" in stages["cpu-packages"].all("RUN")[-1].rest


def check_nothing_comes_from_elsewhere(stages: Stages) -> None:
    """Other than images and the packages of Debian and PyPI, which all have digests."""
    for stage in stages.values():
        assert stage.parent or re.fullmatch(r"debian:\w+-\d{8}-slim", stage.image)
        assert stage.all("ADD") == []
        assert not any(re.search(r"https?://|git\+", run.rest) for run in stage.all("RUN"))


def check_the_project_supports_this_python(stages: Stages) -> None:
    text = " ".join(f"{each.rest} {each.flags}" for stage in stages.values() for each in stage.own)
    text += (ROOT / "docker" / "healthy.py").read_text().splitlines()[0]
    versions = set(re.findall(r"python([\d.]*\d)", text))
    assert len(versions) == 1
    assert versions.pop() in SpecifierSet(PROJECT["project"]["requires-python"])


def check_the_user_is_not_root(stages: Stages) -> None:
    for target in TARGETS:
        stage = stages[target]
        (made,) = re.findall(r"useradd .*--uid (\d+) .*?(\w+)\s+&&", " ".join(run.rest for run in stage.all("RUN")))
        assert [user.rest for user in stage.all("USER")] == [made[0]]
        assert stage.own[-1].name == "USER"
        assert stage.env["HOME"] == f"/home/{made[1]}"
        assert [folder.rest for folder in stage.all("WORKDIR")] == [stage.env["HOME"]]


def check_the_health_check_is_in_the_image(stages: Stages) -> None:
    for target in TARGETS:
        (health,) = stages[target].all("HEALTHCHECK")
        (command,) = health.exec_form
        (copy,) = (copy for copy in stages[target].all("COPY") if copy.words[-1].startswith("/usr/local/bin/"))
        assert copy.words[-1] == f"/usr/local/bin/{command}"
        assert copy.flags["chmod"] == "755"


def check_ray_can_start_a_shell_in_it(stages: Stages) -> None:
    for target in TARGETS:
        stage = stages[target]
        assert stage.all("ENTRYPOINT") == []
        assert stage.all("CMD")[-1].exec_form == ["saltray", "--help"]
        assert stage.env["PATH"].startswith("/opt/saltray/bin:")
        assert any("/etc/profile.d/" in run.rest for run in stage.all("RUN"))
        assert stage.env["RAY_AUTH_MODE"] == "token"


def check_the_required_cuda_is_that_of_the_wheels(stages: Stages) -> None:
    wanted = stages["gpu"].env["NVIDIA_REQUIRE_CUDA"].removeprefix("cuda>=")
    assert wanted == pins()["nvidia-cuda-runtime"].partition(".")[0] + ".0"
    assert not any(name.startswith("NVIDIA") for name in stages["cpu"].env)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_dockerfile_passes(check: Callable[[Stages], None]) -> None:
    check(parse(DOCKERFILE.read_text()))


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_every_copied_path_is_in_the_context, "COPY README.md LICENSE", "COPY README.md NOTICE"),
        (check_every_copied_path_is_in_the_context, "COPY saltray saltray", "COPY saltray tests /src/"),
        (check_every_copied_path_is_in_the_context, "COPY --from=gpu-packages", "COPY --from=packages"),
        (check_the_package_has_the_files_for_its_build, "README.md LICENSE", "README.md"),
        (check_a_change_of_the_source_keeps_dependencies, "COPY pyproject.toml", "COPY pyproject.toml README.md"),
        (check_all_versions_are_the_projects, "uv pip install --requirements", "uv pip install torch==2 -r"),
        (
            check_all_versions_are_the_projects,
            (
                "--requirements pyproject.toml --extra export --extra mlflow --extra serve --extra tpe\n"
                "\nFROM build AS cpu"
            ),
            "ray",
        ),
        (check_all_versions_are_the_projects, "--torch-backend cpu ", ""),
        (check_all_versions_are_the_projects, " --extra tpe", ""),
        (check_nothing_comes_from_elsewhere, "debian:bookworm-20260824-slim", "debian:bookworm"),
        (check_nothing_comes_from_elsewhere, "COPY pyproject.toml ./", "ADD https://example.com/a ./"),
        (check_nothing_comes_from_elsewhere, "uv==0.13.9", "https://example.com/uv.whl"),
        (check_the_project_supports_this_python, "--python python3.11", "--python python3.12"),
        (check_the_user_is_not_root, "USER 1000", "USER 0"),
        (check_the_user_is_not_root, "--uid 1000", "--uid 1001"),
        (check_the_user_is_not_root, "HOME=/home/saltray", "HOME=/root"),
        (check_the_health_check_is_in_the_image, "/usr/local/bin/healthy", "/usr/local/bin/health"),
        (check_the_health_check_is_in_the_image, "--chmod=755", "--chmod=644"),
        (check_ray_can_start_a_shell_in_it, 'CMD ["saltray", "--help"]', 'ENTRYPOINT ["saltray"]\nCMD ["--help"]'),
        (check_ray_can_start_a_shell_in_it, "/etc/profile.d/saltray.sh", "/etc/motd"),
        (check_ray_can_start_a_shell_in_it, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
        (check_the_required_cuda_is_that_of_the_wheels, "cuda>=13.0", "cuda>=12.0"),
    ],
)
def test_a_check_finds_a_fault(check: Callable[[Stages], None], old: str, new: str) -> None:
    stages = parse(replaced(DOCKERFILE, old, new))
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(stages)


def test_the_build_context_has_exactly_the_files_of_the_image() -> None:
    files = {path for path in sent() if (ROOT / path).is_file()}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "saltray").rglob("*") if path.is_file()}
    source = {path for path in package if "__pycache__" not in path}
    assert files == source | {".dockerignore", "LICENSE", "README.md", "pyproject.toml", "docker/healthy.py"}


def test_everything_that_is_installed_is_pinned() -> None:
    """Walks the requirements of the project as installed here, so that a new one without a pin is found."""
    found: set[str] = set()
    todo = [("saltray", frozenset({"", *PROJECT["project"]["optional-dependencies"]}))]
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for line in requires(name) or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                found.add(canonicalize_name(need.name))
                todo.append((canonicalize_name(need.name), frozenset({"", *need.extras})))
    assert {"torch", "ray", "optuna", "grpcio", "botocore"} <= found
    assert found <= set(pins())


def test_the_health_check_uses_the_port_of_ray_s_agent() -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    constants = (Path(spec.origin).parent / "_private" / "ray_constants.py").read_text()
    (port,) = re.findall(r"^DEFAULT_DASHBOARD_AGENT_LISTEN_PORT = (\d+)$", constants, re.MULTILINE)
    assert f"else {port}," in (ROOT / "docker" / "healthy.py").read_text()


def pins() -> dict[str, str]:
    return dict(line.split("==") for line in PROJECT["tool"]["uv"]["constraint-dependencies"])


def sent() -> set[str]:
    """Paths that .dockerignore leaves in the build context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    paths: set[str] = exclude_paths(str(ROOT), [line for line in lines if not line.startswith("#")])
    return paths


def replaced(path: Path, old: str, new: str) -> str:
    text = path.read_text()
    assert old in text
    return text.replace(old, new)
