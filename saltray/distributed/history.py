"""Each epoch's metrics of a fold as JSON lines in the store, since Ray Train keeps none.

An object store cannot append, so a thread rewrites the whole small object, off the training's critical path.
"""

import json
import threading
from collections.abc import Iterable
from typing import Any

from saltray.errors import NotFoundError
from saltray.storage import Store

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

    def append(self, record: dict[str, Any]) -> None:
        """Add one epoch; it is in the store a moment later."""
        self.records.append(record)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write()

    def _keep_writing(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self._write()

    def _write(self) -> None:
        count = len(self.records)
        if count > self._written:
            lines = (json.dumps(record, sort_keys=True) + "\n" for record in self.records[:count])
            self._store.put(KEY, "".join(lines).encode())
            self._written = count


def read_history(store: Store) -> list[dict[str, Any]]:
    """The records of a fold so far, oldest first; none where it has not begun."""
    try:
        return [json.loads(line) for line in store.get(KEY).splitlines()]
    except NotFoundError:
        return []
