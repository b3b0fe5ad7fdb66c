"""Names and values from outside in messages: on one line, not too long, and with the name that may have been meant."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = 10
"""Most names that a message lists."""


def excerpt(value: Any) -> str:
    """A value for a message, as JSON and not too long."""
    try:
        text = json.dumps(value, default=str)
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__} that is nested too deeply, or has impossible keys or numbers"
    return text if len(text) <= 80 else f"{text[:80]}..."


def plain(name: str) -> str:
    """A name from outside for a message: on one line, and not too long."""
    return name if name.isprintable() and len(name) <= 80 else excerpt(name)


def suggestion(name: str, known: Iterable[str], *, least: float = 0.5) -> str | None:
    """The known name that may have been meant, if one is close; a dotted one may be meant by its last part.

    Args:
        name: as it was given.
        known: all names.
        least: how close it must be, up to 0.75; 1 is equal.
    """
    whole = {other: other for other in known}
    last = {other.rpartition(".")[2]: other for other in reversed(whole)}
    for names, cutoff in ((whole, 0.75), (last, 0.75), (whole, least)):
        for near in difflib.get_close_matches(name, names, n=1, cutoff=cutoff):
            return names[near]
    return None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean NEAR?` where a known name is close, else another remedy."""
    near = suggestion(name, known)
    return f"did you mean {near}?" if near else otherwise


def there_are(name: str, known: Sequence[str], otherwise: str) -> str:
    """The names that are known, and the one that may have been meant; another remedy if there are none."""
    if not known:
        return otherwise
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    near = did_you_mean(name, known)
    return f"there are {', '.join(known[:SHOWN])}{more}" + (f"; {near}" if near else "")
