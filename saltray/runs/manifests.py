"""The manifest of a run, a pretraining or a search, read in one way by all who need it.

Settings of an earlier version are read as this version has them; see `config.StoredConfig`. What cannot be read is told
apart: a record of another version of saltray, and one that is corrupted.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from saltray.ensemble.manifest import provenance
from saltray.errors import ConfigError, IntegrityError
from saltray.runs.layout import MANIFEST, REPORT
from saltray.storage.base import Store
from saltray.wording import plain

T = TypeVar("T")


def manifest_of(home: Store, kind: type[T]) -> T:
    """What a run, a pretraining or a search is.

    Args:
        home: its part of the store.
        kind: class of its manifest.

    Raises:
        NotFoundError: there is none.
        ConfigError: another version of saltray wrote it, and this one cannot read it.
        IntegrityError: it is corrupted.
    """
    try:
        return home.get_record(MANIFEST, kind)
    except IntegrityError as error:
        made = _made_by(home)
        if made is None:
            raise
        page = f"; its own page is {home.uri}/{REPORT}" if home.exists(REPORT) else ""
        raise ConfigError(
            f"{home.uri} was made by another version of saltray, {made}, whose records this one cannot read ({error}); "
            f"use that version for it{page}"
        ) from error


def changed_unseen(made: Mapping[str, str | None]) -> str:
    """What differs between two commands with the same settings and tiles, for a message.

    Args:
        made: the provenance of what the first one left. Another version may have written the same settings in another
            form, and their digest is not the same then.
    """
    other = _other_version(made)
    return "initial weights" if other is None else f"initial weights, or by another version of saltray, {other}"


def _made_by(home: Store) -> str | None:
    """The version that wrote a manifest, where that is another one and its record can be read as JSON."""
    try:
        record = home.get_json(MANIFEST)
    except IntegrityError:
        return None
    return _other_version(record.get("provenance")) if isinstance(record, dict) else None


def _other_version(made: Any) -> str | None:
    """The version that a provenance is of, where that is another one."""
    own = provenance()
    if not isinstance(made, dict) or all(made.get(name) == own[name] for name in ("saltray", "commit")):
        return None
    commit = f" (commit {plain(str(made['commit']))[:12]})" if made.get("commit") else ""
    return f"{plain(str(made.get('saltray') or 'an unknown one'))}{commit}"
