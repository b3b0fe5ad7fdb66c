"""Each epoch's metrics of a fold as JSON lines in the store, since Ray Train keeps none.

An object store cannot append, so a thread rewrites the whole small object, off the training's critical path.
"""

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from saltray.errors import NotFoundError, StorageError
from saltray.storage.base import Store

KEY = "history.jsonl"
PAUSE_S = 1.0


class History:
    """Writer of one fold's records; a context manager that writes the last of them on leaving.

    Args:
        store: the fold's part of the store.
        records: what earlier attempts left, to go on from.
    """

    def __init__(self, store: Store, records: Iterable[dict[str, Any]] = ()) -> None:
        self.records = list(records)
        self._store = store
        self._stop = threading.Event()
        self._written = 0
        self._thread = threading.Thread(target=self._keep_writing, name="history", daemon=True)
        self._thread.start()

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of epochs alone."""
        return list(epochs_of(self.records))

    def append(self, record: dict[str, Any]) -> None:
        """Add one epoch; it is in the store a moment later."""
        self.records.append(record | {"at": time.time()})

    def note(self, text: str) -> None:
        """Add a line that the user should see: what was not as expected, and what follows."""
        self.append({"note": text})

    def __enter__(self) -> "History":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(*([StorageError] if kind else [])):  # what ended the body matters more
            self._write()

    def _keep_writing(self) -> None:
        while not self._stop.wait(PAUSE_S):
            with suppress(StorageError):  # the next write holds these records too, and the last one, on leaving, raises
                self._write()

    def _write(self) -> None:
        count = len(self.records)
        if count > self._written:
            lines = (json.dumps(record, sort_keys=True) + "\n" for record in self.records[:count])
            self._store.put(KEY, "".join(lines).encode())
            self._written = count


def epochs_of(records: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The records of epochs alone, without the notes."""
    return tuple(record for record in records if "epoch" in record)


def read_history(store: Store) -> list[dict[str, Any]]:
    """The epochs of a fold so far, oldest first; none where it has not begun."""
    return list(epochs_of(read_lines(store)))


def read_lines(store: Store) -> list[dict[str, Any]]:
    """Epochs and notes of a fold so far, oldest first."""
    try:
        return [json.loads(line) for line in store.get(KEY).splitlines()]
    except NotFoundError:
        return []
