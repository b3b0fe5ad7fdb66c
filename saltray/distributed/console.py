"""Where the verbs print. One line stays one line in a log file, however narrow the terminal, and is taken literally."""

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)
