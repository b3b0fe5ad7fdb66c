"""`saltray ensemble`: the published ensembles of a store; `Ensemble` loads, verifies and describes one."""

from saltray.commands.root import open_root
from saltray.ensemble import versions
from saltray.ensemble.versions import EnsembleVersion


def list_ensembles(store: str) -> list[EnsembleVersion]:
    """All versions of all ensembles of a store, by name and number, incomplete ones included.

    Args:
        store: a folder or s3://bucket/prefix.

    Raises:
        ConfigError: that is no store.
        StorageError: the store cannot be reached.
    """
    return versions.list_ensembles(open_root(store))
