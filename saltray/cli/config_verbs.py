"""The verbs of settings."""

import json
from typing import Annotated

from tyro.conf import Positional, arg

import saltray
from saltray.cli import tables
from saltray.cli.console import console
from saltray.cli.flags import SearchFlags, ShowFlags
from saltray.cli.run_verbs import PRETRAIN_DEFAULTS, SEARCH_DEFAULTS
from saltray.config import PretrainConfig


def show_config(
    flags: Annotated[ShowFlags, arg(name="")],
    search: Annotated[SearchFlags, arg(name="search")] = SEARCH_DEFAULTS,
    pretrain: Annotated[PretrainConfig, arg(name="pretrain")] = PRETRAIN_DEFAULTS,
) -> None:
    """Print all settings as a TOML file for --config.

    Args:
        flags: The run.
        search: The search.
        pretrain: The pretraining.

    Examples:
        saltray config show --recipe best > job.toml
        saltray config show --config saltray-store/runs/r1 > r1.toml
    """
    console.file.write(saltray.config_toml(flags.config(), search, pretrain))


def diff(
    first: Annotated[Positional[str], arg(metavar="A")], second: Annotated[Positional[str], arg(metavar="B")], /
) -> None:
    """Show the settings in which two runs, files or recipes differ.

    Args:
        first: A recipe, a TOML or JSON file, STORE/runs/NAME or STORE/ensembles/NAME.
        second: In the same way.

    Examples:
        saltray config diff fast best
        saltray config diff saltray-store/runs/r1 job.toml
    """
    tables.print_differences(console, first, second, saltray.config_diff(first, second))


def schema() -> None:
    """Print the JSON schema of settings files, by which editors complete them.

    Examples:
        saltray config schema > saltray.schema.json
        sed -i '1i #:schema ./saltray.schema.json' job.toml
    """
    console.file.write(json.dumps(saltray.config_schema(), indent=2) + "\n")
