"""The names that an object may have."""

from typing import Annotated

from pydantic import AfterValidator

from saltray.errors import StorageError


def check_key(key: str) -> str:
    """Return `key` if it may name an object.

    Raises:
        StorageError: it is empty or absolute, or has empty parts, '.', '..' or control characters.
    """
    if not is_key(key):
        raise StorageError(f"{key!r} is not an object key; use relative names separated by '/', without '.' and '..'")
    return key


def is_key(key: str) -> bool:
    """Whether `key` may name an object."""
    return key.isprintable() and not any(part in ("", ".", "..") for part in key.split("/"))


def _valid_key(key: str) -> str:
    if not is_key(key):
        raise ValueError("it should be relative names separated by '/', without '.' and '..'")
    return key


Key = Annotated[str, AfterValidator(_valid_key)]
"""An object's key in a stored record: it stays inside the store."""
