"""What may have been meant by a path or URI at which there is nothing: the same, but for one of its last parts."""

import os
from collections.abc import Callable
from contextlib import suppress

from saltray.errors import ConfigError, StorageError
from saltray.storage.uri import open_object, open_store
from saltray.wording import suggestion

PARTS = 3
"""Parts, from the last, of which one may be wrong: three are in NAME/fold-0/model.safetensors."""


def is_there(uri: str) -> bool:
    """Whether there is a file or a folder."""
    store = open_store(uri)
    if not store.is_remote:
        return os.path.exists(store.uri)  # noqa: PTH110  (Path.exists raises for a name that is too long)
    if store.names():
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
            names = open_store("/".join(head) or ("/" if head else ".")).names()
            # Of a short name, one letter is much.
            near = suggestion(part, (name for name in names if name != part), least=0.5 if len(part) < 5 else 0.7)
            if near is not None:
                found = "/".join([*head, near, *rest])
                if (not rest or is_there(found)) and is_meant(found):
                    return found
            if part in names:
                break
    return None
