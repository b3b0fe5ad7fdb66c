"""Signals that end a command, sent to a real one; what belongs to Ray is in test_app."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from command import Saltray

import saltray as library
from saltray.cli import signals

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A process as a shell starts it, and afterwards the handlers of whoever runs the tests."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def cleaned_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets `saltray check` receive the first of these signals while it works, the others while it cleans up."""

    def install(first: signal.Signals, *others: signal.Signals) -> list[str]:
        done: list[str] = []

        def check(*args: object, **settings: object) -> None:
            try:
                os.kill(os.getpid(), first)
                time.sleep(30)
            finally:
                for number in others:
                    os.kill(os.getpid(), number)
                    time.sleep(0.01)  # Python handles it
                done.append("cleaned up")

        monkeypatch.setattr(library, "check", check, raising=False)
        return done

    return install


@pytest.mark.parametrize(
    ("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 129)], ids=str
)
@pytest.mark.parametrize("others", [(), HANDLED], ids=["alone", "followed"])
def test_a_signal_ends_a_command_once_it_has_cleaned_up(
    saltray: Saltray,
    cleaned_up: Callable[..., list[str]],
    first: signal.Signals,
    code: int,
    others: tuple[signal.Signals, ...],
) -> None:
    done = cleaned_up(first, *others)
    answer = saltray("check", "x")
    assert (answer.code, answer.err.splitlines()[-1]) == (code, "saltray: interrupted")
    assert done == ["cleaned up"]


def test_a_clean_up_that_lasts_too_long_can_be_broken_off(
    saltray: Saltray, cleaned_up: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "CLEAN_UP_S", 0.0)
    done = cleaned_up(signal.SIGTERM, signal.SIGINT)
    assert saltray("check", "x").code == 130
    assert done == []


@pytest.mark.parametrize("ignored", HANDLED, ids=str)
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(
    saltray: Saltray, monkeypatch: pytest.MonkeyPatch, ignored: signal.Signals
) -> None:
    """SIGHUP by `nohup`, SIGINT by a shell in its background jobs."""
    signal.signal(ignored, signal.SIG_IGN)
    monkeypatch.setattr(library, "list_runs", lambda store: os.kill(os.getpid(), ignored) or [], raising=False)
    answer = saltray("status")
    assert (answer.code, answer.err) == (0, "")


def test_a_terminal_that_is_closed_ends_a_command_that_writes_to_it() -> None:
    script = """
import fcntl, termios, time
import saltray
from saltray.cli import app
fcntl.ioctl(0, termios.TIOCSCTTY, 0)

def check(uri, **settings):
    print("works", flush=True)
    try:
        time.sleep(30)
    finally:
        print("cleans up", flush=True)

saltray.check = check
app.main()
"""
    master, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, "check", "x"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    while b"works" not in seen:
        seen += os.read(master, 1000)
    os.close(master)
    assert process.wait(30) == 129


def test_windows_is_refused_in_a_line(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    answer = saltray("check", "x")
    assert (answer.code, answer.err) == (2, "saltray: it runs on Linux and macOS; on Windows, use it in WSL 2\n")
