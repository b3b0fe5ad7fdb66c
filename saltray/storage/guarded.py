"""A store that asks before it writes."""

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from saltray.storage.base import Entry, Opened, Store


class Guard(Protocol):
    """Whatever may forbid writing."""

    def check(self) -> None:
        """Raise an exception if nothing may be written any more."""


class GuardedStore(Store):
    """A store whose writing methods ask a guard first; it reads as the store itself does, and is equal to it.

    Args:
        store: the store.
        guard: is asked before each write, in whatever process that is; it must survive pickling.
    """

    def __init__(self, store: Store, guard: Guard) -> None:
        super().__init__(store.uri)
        self._store = store
        self._guard = guard

    def __reduce__(self) -> tuple[Any, ...]:
        return GuardedStore, (self._store, self._guard)

    def sub(self, prefix: str) -> "GuardedStore":
        return GuardedStore(self._store.sub(prefix), self._guard)

    def put(self, key: str, data: bytes) -> None:
        self._guard.check()
        self._store.put(key, data)

    def put_new(self, key: str, data: bytes) -> bool:
        self._guard.check()
        return self._store.put_new(key, data)

    def put_file(self, key: str, path: Path) -> str:
        self._guard.check()
        return self._store.put_file(key, path)

    def delete(self, key: str) -> None:
        self._guard.check()
        self._store.delete(key)

    def delete_prefix(self, prefix: str) -> None:
        self._guard.check()
        self._store.delete_prefix(prefix)

    def entry(self, key: str) -> Entry:
        return self._store.entry(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._store.list(prefix)

    def folders(self, prefix: str = "") -> builtins.list[str]:
        return self._store.folders(prefix)

    def names(self) -> builtins.list[str]:
        return self._store.names()

    def _open(self, key: str) -> Opened:
        return self._store._open(key)

    def _attempt(self, key: str, call: Any) -> Any:
        return self._store._attempt(key, call)

    def _is_transient(self, error: Exception) -> bool:
        return self._store._is_transient(error)
