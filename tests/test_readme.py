"""The README's blocks: commands as the command line takes them, its TOML file, and the driver script."""

import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import Saltray

import saltray
from saltray.cli import app
from saltray.commands.load_config import load_config
from saltray.config import Config, SearchConfig
from saltray.runs.records import RunManifest
from saltray.storage.uri import open_store

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
"""Language and text of each."""
COMMANDS = [
    line[line.index("saltray ") :]
    for language, text in BLOCKS
    if not language
    for line in text.splitlines()
    if re.match(r"(?:\S+=\S.*? |.* -- |.*uv run )?saltray [a-z]", line)
]
"""All lines with one, without what starts it elsewhere."""
SPANS = [
    span
    for line in README.read_text().splitlines()
    if line.startswith("| ")
    for span in re.findall(r"`((?:saltray |--)[^`]+)`", line)
]
"""What the tables say to add, or to run."""


class ReachedError(Exception):
    """The command line called a function of the library."""

    def __init__(self, name: str, arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
        super().__init__(name)
        self.name, self.arguments, self.settings = name, arguments, settings


@pytest.fixture
def parse(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ReachedError | str]:
    """The call that a command makes, or what the command line says against it; there are a file and a run to read."""
    import saltray as package

    ((_, text),) = [(language, text) for language, text in BLOCKS if language == "toml"]
    Path("job.toml").write_text(text)
    run = RunManifest(run="r1", identity="0" * 64, config=Config(data="d"), dataset="0" * 64, provenance={})
    open_store("STORE").put_record("runs/r1/manifest.json", run)
    for name in package.__all__:
        if inspect.isfunction(getattr(package, name)):

            def reached(*arguments: Any, _name: str = name, **settings: Any) -> None:
                raise ReachedError(_name, arguments, settings)

            monkeypatch.setattr(package, name, reached)

    def call(line: str) -> ReachedError | str:
        program, *words = shlex.split(line, comments=True)
        assert program == "saltray"
        words = words[: words.index(">")] if ">" in words else words
        try:
            answer = saltray(*words)
        except ReachedError as found:
            return found
        return answer.err + answer.out

    return call


def test_all_commands_are_found() -> None:
    verbs = {command.split()[1] for command in COMMANDS}
    assert verbs >= {"demo", "check", "tune", "train", "run", "compare", "status", "predict", "export", "serve"}
    assert any("--config job.toml" in command for command in COMMANDS)
    assert len(SPANS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command: str, parse: Callable[[str], Any]) -> None:
    found = parse(command)
    assert isinstance(found, ReachedError), found
    verb = command.split()[1]
    assert found.name == {"report": "write_report"}.get(verb, verb)  # a room is called saltray.report


@pytest.mark.parametrize("span", SPANS)
def test_the_flags_of_a_table_are_accepted(span: str, parse: Callable[[str], Any]) -> None:
    if span.startswith("--"):
        verb = "tune" if span.startswith("--search") else "train"
        span = f"saltray {verb} --data DATA {span}"
    found = parse(span)
    if isinstance(found, str) and re.search(r"--[\w.-]+$", span):  # the last flag is named without a value
        assert "has no flag" in parse(f"{span}x")
        assert "has no flag" not in found
    elif "completion" in span:
        assert "completion for saltray" in str(found)
    elif not re.fullmatch(r"saltray [a-z-]+", span):  # a verb may be named without the data that it needs
        assert isinstance(found, ReachedError), found


def test_a_flag_that_is_renamed_is_noticed(parse: Callable[[str], Any]) -> None:
    (command,) = [command for command in COMMANDS if command.startswith("saltray train ")]
    assert isinstance(parse(command), ReachedError)
    for flag in re.findall(r"--[\w.-]+", command):
        assert isinstance(parse(command.replace(flag, f"{flag}-once", 1)), str), flag


def test_the_file_of_settings_is_read(parse: Callable[[str], Any]) -> None:
    (text,) = [text for language, text in BLOCKS if language == "toml"]
    written = tomllib.loads(text)
    assert load_config("job.toml").train.epochs == written["train"]["epochs"]
    found = parse("saltray run --config job.toml")
    config, search = found.arguments
    assert (config.data, config.store, config.run) == (written["data"], written["store"], written["run"])
    assert config.train.epochs == written["train"]["epochs"]
    assert config.cluster.workers_per_fold == written["workers_per_fold"]
    assert search.trials == written["search"]["trials"]
    assert set(search.space) == set(written["search"]["space"])


def requests() -> Iterator[list[str]]:
    for language, text in BLOCKS:
        for line in text.splitlines():
            if not language and line.startswith("curl "):
                yield shlex.split(line, comments=True)


def test_the_request_is_for_the_server_s_own_address() -> None:
    (words,) = requests()
    defaults = {name: value.default for name, value in inspect.signature(app.serve).parameters.items()}
    assert f"http://{defaults['host']}:{defaults['port']}/predict" in words
    assert words[words.index("--data-binary") + 1].startswith("@")


@pytest.mark.ray
def test_the_driver_script(
    ray_here: None,
    small: Callable[..., Config],
    tiles_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is there, but for data, store, and sizes that suit a test."""
    (script,) = re.findall(r"```python\n((?:(?!```).)*saltray\.tune\(.*?)```", README.read_text(), re.DOTALL)

    def smaller(**settings: Any) -> Config:
        own, test = Config(**settings), small(tiles_folder, tmp_path / "store")
        changed = {name: getattr(test, name) for name in ("data", "store", "folds", "model", "train", "cluster")}
        return replace(own, **changed)

    def shorter(**settings: Any) -> SearchConfig:
        return SearchConfig(**settings | {"trials": 2, "epochs": 2})

    monkeypatch.setattr(saltray, "Config", smaller, raising=False)
    monkeypatch.setattr(saltray, "SearchConfig", shorter, raising=False)
    names: dict[str, Any] = {"images": saltray.read_tiles(str(tiles_folder)).images[:3]}
    exec(compile(script, "README.md", "exec"), names)
    assert names["masks"].shape == names["images"].shape
    store = open_store(str(tmp_path / "store"))
    assert store.folders("searches") == ["s1"]
    assert store.folders("ensembles") == ["r1"]
    assert f"published {store.uri}/ensembles/r1/v1" in capsys.readouterr().out
