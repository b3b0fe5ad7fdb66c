"""In place of Ray's script of this name, which imports all of Ray only to replace itself by the worker.

The raylet starts each worker by `python setup_worker.py default_worker.py ARGS`; among ARGS are its language and its
runtime environment. Ray's own takes 0.3 s of CPU for each worker, this one a tenth of that. What is not plain Python is
left to Ray's.

This file runs as a script, and imports nothing but the standard library.
"""

import json
import os
import re
import shlex
import sys
from pathlib import Path

RUNTIME_ENV = "--serialized-runtime-env-context="
LANGUAGE = "--language="
WORKER = "default_worker.py"


def main(words: list[str]) -> None:
    """Replace this process by the worker.

    Args:
        words: of the command line, as the raylet has written it.
    """
    rest = [word for word in words if not word.startswith((RUNTIME_ENV, LANGUAGE))]
    given = [word[len(RUNTIME_ENV) :] for word in words if word.startswith(RUNTIME_ENV)]
    context = json.loads(given[0] if given else "{}")
    special = context.get("command_prefix") or context.get("override_worker_entrypoint")
    if special or f"{LANGUAGE}PYTHON" not in words:
        worker = next(word for word in rest if word.endswith(WORKER))
        os.execv(sys.executable, [sys.executable, str(Path(worker).with_name(Path(__file__).name)), *words])
    for name, value in context.get("env_vars", {}).items():
        # A variable may name others, and those that there are not are empty.
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    executable = context.get("py_executable") or sys.executable  # words of a shell
    os.execvp("bash", ["bash", "-c", " ".join(["exec", executable, *map(shlex.quote, rest)])])


if __name__ == "__main__":
    main(sys.argv[1:])
