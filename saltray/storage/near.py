"""What may have been meant by a path or URI at which there is nothing: the same, but for one of its last parts."""

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from saltray.errors import ConfigError, StorageError
from saltray.storage.base import Store
from saltray.storage.uri import open_object, open_store
from saltray.wording import suggestion

PARTS = 3
"""Parts, from the last, of which one may be wrong, as of NAME/fold-0/model.safetensors."""
OBJECTS = 1000
"""Objects of a prefix among which a file is looked for: those of one answer."""


def is_there(uri: str) -> bool:
    """Whether there is a file or a folder."""
    store = open_store(uri)
    if not store.is_remote:
        return os.path.exists(store.uri)  # noqa: PTH110  (Path.exists raises for a name that is too long)
    if next(iter(store.list()), None) is not None:
        return True
    with suppress(ConfigError):  # a bucket
        parent, key = open_object(uri.rstrip("/"))
        return parent.exists(key)
    return False


def near_uri(uri: str, is_meant: Callable[[str], bool] = lambda _: True) -> str | None:
    """The URI that may have been meant; None if none is close, or the store does not tell.

    Args:
        uri: a path, or s3://bucket/key; it need not be valid.
        is_meant: whether another one, at which there is something, may be it.
    """
    parts = uri.rstrip("/").split("/")
    least = 3 if uri.lower().startswith(("s3://", "file://")) else 0
    with suppress(ConfigError, StorageError):
        for at in range(len(parts) - 1, max(len(parts) - 1 - PARTS, least - 1), -1):
            head, part, rest = parts[:at], parts[at], parts[at + 1 :]
            names = _names(open_store("/".join(head) or ("/" if head else ".")))
            # Of a short name, one letter is much.
            near = suggestion(part, (name for name in names if name != part), least=0.5 if len(part) < 5 else 0.7)
            if near is not None:
                found = "/".join([*head, near, *rest])
                if (not rest or is_there(found)) and is_meant(found):
                    return found
            if part in names:
                break
    return None


def _names(store: Store) -> list[str]:
    """The files and folders of a folder, which need not exist."""
    if not store.is_remote:
        with suppress(OSError):
            return sorted(os.listdir(store.uri))  # noqa: PTH208  (names are all that it takes)
        return []
    return [*store.folders(), *(entry.key for entry in islice(store.list(), OBJECTS) if "/" not in entry.key)]
