"""What all pages share: HTML that escapes every value, numbers for people, and scripts that a page vouches for.

No page runs a script but those that are given here as text: the content security policy names their digests, so that
nothing that a run, a tile or a store is called can ever be executed.
"""

import base64
import hashlib
import math
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

UNKNOWN = "\N{EN DASH}"


def template(name: str) -> Template:
    """A template of this package."""
    return _environment().get_template(name)


def script_source(name: str) -> tuple[str, str]:
    """A script of this package as text, and the source of the content security policy that allows it alone."""
    environment = _environment()
    assert environment.loader is not None
    text = environment.loader.get_source(environment, name)[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return text, f"'sha256-{digest}'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("saltray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, duration=duration, rounded=rounded)
    return environment


def number(value: float) -> str:
    """A score, or a dash where it is unknown."""
    return f"{value:.4f}" if math.isfinite(value) else UNKNOWN


def percent(value: float) -> str:
    """A share, or a dash where it is unknown."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else UNKNOWN


def rounded(value: float) -> str:
    """Three digits of a speed or a cost, or a dash where it is unknown."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for people: 8.4 s, 4 min 12 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
