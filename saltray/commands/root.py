"""The store that a command names: not one of the parts that a store has, which would become a store of its own."""

import re
from itertools import islice

from saltray.data.layout import DATASETS
from saltray.ensemble.layout import ENSEMBLES, MANIFEST, version_number
from saltray.errors import ConfigError
from saltray.runs.layout import PRETRAINED, RUNS
from saltray.search.layout import SEARCHES
from saltray.storage.base import Store
from saltray.storage.uri import open_store

PARTS = {
    RUNS: "a run",
    SEARCHES: "a search",
    PRETRAINED: "a pretraining",
    ENSEMBLES: "an ensemble",
    DATASETS: "a data set",
}
_PART = re.compile(rf"(.+)/({'|'.join(PARTS)})(/[^/]+(?:/v[0-9]+)?)?")


def open_root(uri: str) -> Store:
    """The store at a URI.

    Raises:
        ConfigError: it cannot be a store, or it is a run, or another part of one.
        StorageError: it may be a part of one, and the store cannot be reached.
    """
    store = open_store(uri)
    part = _PART.fullmatch(store.uri)
    if part is not None and any(_is_part(each, part[2]) for each in ([store] if part[3] else _below(store))):
        what = PARTS[part[2]] if part[3] else f"the folder {part[2]} of a store"
        raise ConfigError(f"{uri} is {what}, not a store; name the store that it is in, {part[1]}")
    return store


def _is_part(folder: Store, kind: str) -> bool:
    """Whether it is a run, a search, a pretraining, a data set, or an ensemble or a version of one."""
    versions = (name for name in folder.folders() if version_number(name)) if kind == ENSEMBLES else ()
    return folder.exists(MANIFEST) or any(folder.exists(f"{name}/{MANIFEST}") for name in versions)


def _below(store: Store) -> list[Store]:
    """Some of the folders in a store, or in a folder of one, that may be such parts."""
    return [store.sub(name) for name in islice((name for name in store.folders() if name not in PARTS), 3)]
