"""Where the command line draws, and what follows a command there."""

import logging
import sys

from saltray.cli.live import LocalConsole
from saltray.cli.observer import TerminalObserver

LOG_WIDTH = 1000
"""Columns of a log file, in which nobody sees a line wrapped: tables are as wide as they need."""
# One line stays one line, however narrow the terminal, and is taken literally.
console = LocalConsole(
    highlight=False,
    markup=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else LOG_WIDTH,
    force_interactive=None if sys.stdout.isatty() else False,  # FORCE_COLOR makes no terminal of a log file
)
observer = TerminalObserver(console)


def show_ray_output(verbose: bool) -> None:
    """Print what Ray and its workers print, and all of saltray's own messages, if that is asked for."""
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("saltray").setLevel(logging.DEBUG)
