"""The help of the command line: few settings first, all of them with --help-all, and examples below them."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Annotated, Any

from tyro.conf import Suppress
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo
from tyro.extras import SubcommandApp

import saltray
from saltray.cli.console import console
from saltray.cli.flags import REGISTRY, SearchFlags, kinds_of
from saltray.config import (
    AugmentConfig,
    ClusterConfig,
    FoldConfig,
    LateLossConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PseudoLabelConfig,
    TrainConfig,
)

SHOWN: dict[Any, tuple[str, ...]] = {
    FoldConfig: (),
    ModelConfig: ("architecture", "weights"),
    OptimConfig: ("lr",),
    AugmentConfig: (),
    LossConfig: (),
    LateLossConfig: (),
    TrainConfig: ("epochs", "batch_size", "input_size"),
    PseudoLabelConfig: (),
    ClusterConfig: ("workers_per_fold", "gpus_per_worker"),
    SearchFlags: ("name", "trials", "space", "folds"),
}
"""The settings that --help shows, of those of which there are many."""
GENERAL = """\
examples:
  saltray demo
  saltray train --data tiles --recipe best
  saltray predict --ensemble saltray-store/ensembles/r1 --data tiles

`saltray VERB --help` explains a verb.
`saltray --tyro-print-completion bash` (or zsh) prints a script that completes
verbs and flags; for bash, keep it as
~/.local/share/bash-completion/completions/saltray"""
FEW = ConstructorRegistry()


@FEW.struct_rule
def _few(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The usual flags of a class of settings, of which only some are shown."""
    if info.type not in SHOWN or Suppress in info.markers:
        return None
    spec = ConstructorRegistry.get_struct_spec(replace(info, markers=(*info.markers, Suppress)))
    assert isinstance(spec, StructConstructorSpec)
    fields = (
        item if item.name in SHOWN[info.type] else replace(item, type=Annotated[item.type, Suppress])  # type: ignore[arg-type]
        for item in spec.fields
    )
    return replace(spec, fields=tuple(fields))


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line has one of the flags that show the help."""
    return not {"-h", "--help", "--help-all"}.isdisjoint(words)


def show_help(app: SubcommandApp, verb: str, function: Callable[..., None] | None, *, everything: bool) -> None:
    """Print the help of a verb.

    Args:
        app: all verbs.
        verb: one of them, a group of them, or nothing.
        function: of the verb; none for a group.
        everything: whether all settings are shown.
    """
    with nullcontext() if everything else FEW, suppress(SystemExit):
        app.cli(prog="saltray", description=saltray.__doc__, args=[*verb.split(), "--help"], registry=REGISTRY)
    if not verb:
        console.print(GENERAL)
    elif function is not None:
        console.print(f"examples:\n{textwrap.indent(examples(function), '  ')}")
        if kinds_of(function) and not everything:
            console.print(f"\n`saltray {verb} --help-all` shows all settings.")


def examples(function: Callable[..., None]) -> str:
    """The command lines in a verb's docstring."""
    return textwrap.dedent(inspect.cleandoc(function.__doc__ or "").partition("Examples:\n")[2])
