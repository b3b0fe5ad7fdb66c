"""Signals that end a command: Ctrl-C, what `ray job stop` sends, and a terminal that is closed."""

import os
import signal
import time
from types import FrameType

CLEAN_UP_S = 60.0
"""After a signal the command ends its jobs and releases its lock. Others in this time, such as the second of two that
a closed terminal sends, do not break that off; one after it does."""


class Interrupted(KeyboardInterrupt):
    """A signal was received.

    Args:
        exit_code: of the command: 129 for SIGHUP, 130 for the others.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Interrupter:
    """A signal handler that raises Interrupted in the main thread, once."""

    def __init__(self) -> None:
        self._since: float | None = None

    def install(self) -> None:
        """Handle each of the signals that is not ignored, as SIGHUP is under `nohup`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is not None and now - self._since < CLEAN_UP_S:
            return
        self._since = now
        if number == signal.SIGHUP:
            _leave_terminal()
        raise Interrupted(129 if number == signal.SIGHUP else 130)


def _leave_terminal() -> None:
    """Write to nowhere in place of a terminal that is gone: each attempt would be an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
