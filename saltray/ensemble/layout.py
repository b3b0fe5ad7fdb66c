"""The keys of ensembles in a store.

ensembles/<name>/<version>/claim.json            written first: reserves the version's number
ensembles/<name>/<version>/fold-k.safetensors    the members: one fold's weights each, or, of several snapshots,
ensembles/<name>/<version>/fold-k-snapshot-c.safetensors
ensembles/<name>/<version>/model-card.md
ensembles/<name>/<version>/manifest.json         written last: a version without it is incomplete
"""

import re

ENSEMBLES = "ensembles"
"""The folder of all ensembles, relative to the store."""
CLAIM = "claim.json"
"""Of the claim, relative to the version's folder, as are the following."""
MODEL_CARD = "model-card.md"
MANIFEST = "manifest.json"

_ENSEMBLE = re.compile(rf"(?:^|/){ENSEMBLES}/[^/]+(?:/latest|/v[1-9][0-9]*)?$")
_MEMBER = re.compile(rf"((?:|.*/){ENSEMBLES}/[^/]+/v[1-9][0-9]*)/fold-([0-9]+)[^/]*\.safetensors")
_VERSION = re.compile(r"v([1-9][0-9]*)")


def ensemble_prefix(name: str) -> str:
    """The folder of an ensemble, relative to the store."""
    return f"{ENSEMBLES}/{name}"


def version_prefix(name: str, version: str) -> str:
    """The folder of one version of an ensemble, relative to the store."""
    return f"{ensemble_prefix(name)}/{version}"


def is_ensemble_uri(uri: str) -> bool:
    """Whether a URI has the form of an ensemble in a store, or of one of its versions."""
    return _ENSEMBLE.search(uri.rstrip("/")) is not None


def store_of_uri(uri: str) -> str | None:
    """The URI of the store of an ensemble or a version that a URI names; None if it does not have that form."""
    match = _ENSEMBLE.search(uri)
    return None if match is None else uri[: match.start()] or ("/" if uri.startswith("/") else ".")


def member_of_uri(uri: str) -> tuple[str, int] | None:
    """The URI of the version, and the fold, of a member that a URI names; None if it does not have that form."""
    match = _MEMBER.fullmatch(uri)
    return (match[1], int(match[2])) if match else None


def member_key(fold: int, snapshot: int | None = None) -> str:
    """Of a fold's weights, relative to the version's folder; of one snapshot where there are several."""
    return f"fold-{fold}.safetensors" if snapshot is None else f"fold-{fold}-snapshot-{snapshot}.safetensors"


def version_name(number: int) -> str:
    """'v3' for 3."""
    return f"v{number}"


def version_number(version: str) -> int:
    """3 for 'v3', 0 for anything that is not a version."""
    match = _VERSION.fullmatch(version)
    return int(match[1]) if match else 0
