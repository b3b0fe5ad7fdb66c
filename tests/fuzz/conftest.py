"""Generated inputs: how many, and what holds for each: quick, small, and nothing is written beside it.

`pytest tests/fuzz` runs a few, always the same ones; `--hypothesis-profile=campaign` more than 20,000, always others.
"""

import resource
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, Phase, settings

SECONDS = 10.0
MEGABYTES = 500
CAMPAIGN = 20
"""How many times as many inputs a campaign has."""


@dataclass
class Figures:
    """What the inputs of one test took: seconds of this process's CPU, and bytes."""

    inputs: int = 0
    longest: float = 0.0
    peak: int = 0


figures: dict[str, Figures] = defaultdict(Figures)

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,  # `Watch` has the limit, and interrupts
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # shrinking runs slow readers thousands of times
)
settings.register_profile("campaign", settings.get_profile("ci"), derandomize=False, print_blob=True)
if settings.get_current_profile_name() != "campaign":
    settings.load_profile("ci")


def examples(count: int) -> settings:
    """The number of inputs of a test, which a campaign multiplies."""
    return settings(max_examples=count * (CAMPAIGN if settings.get_current_profile_name() == "campaign" else 1))


Watch = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def watch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """`with watch():` around each input: it takes no longer than 10 s, no more than 500 MB, and leaves no file.

    The current folder, the home and the folder of temporary files are empty ones, which must stay so.
    """
    folders = [tmp_path / name for name in ("current", "home", "temporary")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setenv("HOME", str(folders[1]))
    monkeypatch.setattr(tempfile, "tempdir", str(folders[2]))
    before = [(kind, signal.signal(kind, _too_slow)) for kind in (signal.SIGALRM, signal.SIGPROF)]
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_bytes("VmSize") + 16 * 2**30, hard))  # spares the machine

    @contextmanager
    def one_input() -> Iterator[None]:
        test = figures[request.node.nodeid]
        test.inputs += 1
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
        start, started = _bytes("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)  # of a machine that does other things too
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            test.longest = max(test.longest, time.process_time() - started)
            test.peak = max(test.peak, _bytes("VmHWM") - start)
        assert _bytes("VmHWM") - start < MEGABYTES * 2**20
        assert not [path for folder in folders for path in folder.iterdir()]

    yield one_input
    for kind, handler in before:
        signal.signal(kind, handler)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _too_slow(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise AssertionError(f"it takes more than {SECONDS} s")


def _bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, test in figures.items():
        took = f"longest {test.longest:.1f} s of CPU, peak {test.peak / 2**20:.0f} MB"
        terminalreporter.write_line(f"{name}: {test.inputs:,} inputs, {took}")
    if figures:
        terminalreporter.write_line(f"generated inputs: {sum(test.inputs for test in figures.values()):,}")
