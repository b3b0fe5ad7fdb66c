"""One object store behind URIs, a folder or s3://: every object that saltray keeps goes through here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.storage.arrow import arrow_filesystem as arrow_filesystem
    from saltray.storage.base import Entry as Entry
    from saltray.storage.base import Store as Store
    from saltray.storage.lock import RunLock as RunLock
    from saltray.storage.names import open_store as open_store

_HOME = {"Entry": "base", "RunLock": "lock", "Store": "base", "arrow_filesystem": "arrow", "open_store": "names"}
__all__ = ["Entry", "RunLock", "Store", "arrow_filesystem", "open_store"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
