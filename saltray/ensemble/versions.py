"""Which ensembles a store holds, and which of their versions are complete.

A version is complete when its manifest exists: members are written first. `latest` is the highest complete version.
"""

from contextlib import suppress
from dataclasses import dataclass

from saltray.config import Config
from saltray.ensemble.layout import ENSEMBLES, MANIFEST, ensemble_prefix, store_of_uri, version_number
from saltray.ensemble.manifest import EnsembleManifest
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.wording import suggestion


@dataclass(frozen=True)
class EnsembleVersion:
    """One version of an ensemble in a store."""

    name: str
    version: str
    manifest: EnsembleManifest | None
    """None for an incomplete version, and for a manifest that cannot be read."""
    fault: str | None = None
    """Why the manifest cannot be read; None where it can, or is not there."""


def list_ensembles(store: Store | str) -> list[EnsembleVersion]:
    """All versions of all ensembles of a store, by name and number, incomplete ones included.

    Args:
        store: a store, or its URI.
    """
    root = open_store(store) if isinstance(store, str) else store
    return [version for name in root.folders(ENSEMBLES) for version in versions_of(root, name)]


def versions_of(store: Store, name: str) -> list[EnsembleVersion]:
    """All versions of one ensemble by number, incomplete ones included."""
    home = store.sub(ensemble_prefix(name))
    return [
        _version(home.sub(version), name, version)
        for version in sorted(filter(version_number, home.folders()), key=version_number)
    ]


def last_number(store: Store, name: str) -> int:
    """The highest number of a version of an ensemble, complete or not; 0 if there is none."""
    return max(map(version_number, store.folders(ensemble_prefix(name))), default=0)


def resolve(uri: str) -> Store:
    """The part of the store that holds one complete version.

    Args:
        uri: `<store>/ensembles/<name>`, or that with `/latest` or `/v3` at the end.

    Raises:
        EnsembleError: there is no such complete version.
    """
    here = open_store(uri)
    head, _, tail = uri.rstrip("/").rpartition("/")
    if version_number(tail) and here.exists(MANIFEST):
        return here
    # An ensemble may itself be called v3 or latest, so the last part is taken as a name first.
    for root in [here, open_store(head)] if tail == "latest" else [here]:
        for version in sorted(filter(version_number, root.folders()), key=version_number, reverse=True):
            if root.exists(f"{version}/{MANIFEST}"):
                return root.sub(version)
    near = _near(uri.rstrip("/"))
    remedy = f"did you mean {near}?" if near else "`saltray ensemble list` shows what a store holds"
    raise EnsembleError(f"no complete ensemble at {uri}; {remedy}")


def read_manifest(home: Store) -> EnsembleManifest:
    """The manifest of one version.

    Args:
        home: the version's part of the store, as `resolve` finds it.

    Raises:
        NotFoundError: there is none.
        IntegrityError: it is not JSON.
        EnsembleError: it is of another format, or is not a manifest.
    """
    try:
        return EnsembleManifest.from_json(home.get_json(MANIFEST))
    except EnsembleError as error:
        raise EnsembleError(f"{home.uri}/{MANIFEST}: {error}") from error


def _near(uri: str) -> str | None:
    """The URI of the ensemble that may have been meant by one that is none."""
    store = store_of_uri(uri)
    if store is not None:
        names = _complete(store)
        name, _, version = uri.rpartition(f"{ENSEMBLES}/")[2].partition("/")
        near = suggestion(name, names)
        return None if near is None else f"{uri.removesuffix(f'/{version}').removesuffix(name)}{near}"
    if names := _complete(uri):  # a store in place of one of its ensembles
        return f"{uri}/{ensemble_prefix(names[0])}"
    head, _, name = uri.rpartition("/")
    # The folder forgotten, or another one of the store, such as runs/NAME; or the name alone.
    for place in (head, head.rpartition("/")[0]) if head else (Config.store,):
        with suppress(ConfigError, StorageError):
            if place and _has_complete_version(open_store(place).sub(ensemble_prefix(name))):
                return f"{place}/{ensemble_prefix(name)}"
    return None


def _complete(store: str) -> list[str]:
    """The ensembles of a store that have a complete version; none if it does not tell."""
    with suppress(ConfigError, StorageError):  # such as that of a key which may read one ensemble alone
        root = open_store(store)
        return [name for name in root.folders(ENSEMBLES) if _has_complete_version(root.sub(ensemble_prefix(name)))]
    return []


def _has_complete_version(home: Store) -> bool:
    return any(version_number(version) and home.exists(f"{version}/{MANIFEST}") for version in home.folders())


def _version(home: Store, name: str, version: str) -> EnsembleVersion:
    try:
        return EnsembleVersion(name, version, read_manifest(home))
    except NotFoundError:
        return EnsembleVersion(name, version, None)
    except (IntegrityError, EnsembleError) as error:
        return EnsembleVersion(name, version, None, str(error))
