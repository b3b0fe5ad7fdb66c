"""Which ensembles a store holds, and whether they are whole.

A version is complete when its manifest exists: members are written first. `latest` is the highest complete version.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from saltray.ensemble.manifest import EnsembleManifest
from saltray.errors import EnsembleError, IntegrityError, NotFoundError
from saltray.storage.base import Store
from saltray.storage.names import open_store

VERSION = re.compile(r"v([1-9][0-9]*)")


@dataclass(frozen=True)
class Version:
    """One version of an ensemble in a store. `manifest` is None where there is none that can be read."""

    name: str
    version: str
    manifest: EnsembleManifest | None


def number(version: str) -> int:
    """3 for 'v3', 0 for anything that is not a version."""
    match = VERSION.fullmatch(version)
    return int(match[1]) if match else 0


def list_ensembles(store: Store | str) -> list[Version]:
    """All versions of all ensembles of a store, by name and number, unfinished ones included."""
    root = open_store(store) if isinstance(store, str) else store
    return [version for name in root.folders("ensembles") for version in versions_of(root, name)]


def versions_of(store: Store, name: str) -> list[Version]:
    """All versions of one ensemble by number, unfinished ones included."""
    home = store.sub(f"ensembles/{name}")
    return [
        Version(name, version, _manifest(home.sub(version)))
        for version in sorted(filter(number, home.folders()), key=number)
    ]


def resolve(uri: str) -> Store:
    """The part of the store that holds one complete version.

    Args:
        uri: `<store>/ensembles/<name>`, or that with `/latest` or `/v3` at the end.

    Raises:
        EnsembleError: there is no such complete version.
    """
    head, _, tail = uri.rstrip("/").rpartition("/")
    here = open_store(uri.rstrip("/"))
    if number(tail) and here.exists("manifest.json"):
        return here
    # An ensemble may itself be called v3 or latest, so a name comes before what it might mean.
    for root in [here, open_store(head)] if tail == "latest" else [here]:
        for version in sorted(filter(number, root.folders()), key=number, reverse=True):
            if root.exists(f"{version}/manifest.json"):
                return root.sub(version)
    raise EnsembleError(f"no complete ensemble at {uri}; `saltray ensemble list` shows what a store holds")


def read_manifest(uri: str) -> EnsembleManifest:
    """The manifest of the ensemble at `uri`, as `resolve` finds it."""
    return EnsembleManifest.from_json(resolve(uri).get_json("manifest.json"))


def verify(uri: str) -> Iterator[tuple[str, str | None]]:
    """Check the digest of every member; yields (key, None where it is right, else what is wrong with it)."""
    store = resolve(uri)
    for member in EnsembleManifest.from_json(store.get_json("manifest.json")).members:
        try:
            store.get(member.key, sha256=member.sha256)
        except (NotFoundError, IntegrityError) as error:
            yield member.key, str(error)
        else:
            yield member.key, None


def _manifest(store: Store) -> EnsembleManifest | None:
    try:
        return EnsembleManifest.from_json(store.get_json("manifest.json"))
    except (NotFoundError, IntegrityError, EnsembleError):
        return None
