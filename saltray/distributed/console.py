"""Where the verbs print. One line stays one line in a log file, however narrow the terminal."""

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)
