"""What can be asked of a store, for tests of what every call tells of a fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from saltray.storage.base import Store


def store_calls(store: Store, folder: Path) -> dict[str, Callable[[], Any]]:
    """A call of each kind by name, about the objects "a" and "b".

    Args:
        store: the store.
        folder: for the files that are copied from and to it.
    """
    (folder / "file").write_bytes(b"1")
    return {
        "put": lambda: store.put("b/c", b"1"),
        "put_new": lambda: store.put_new("b", b"1"),
        "put_file": lambda: store.put_file("b", folder / "file"),
        "get": lambda: store.get("a"),
        "get_file": lambda: store.get_file("a", folder / "copy"),
        "exists": lambda: store.exists("a"),
        "list": lambda: list(store.list()),
        "folders": store.folders,
        "delete": lambda: store.delete("a"),
        "delete_prefix": lambda: store.delete_prefix("a"),
        "check_writable": store.check_writable,
    }


def calls_with_answers(store: Store, folder: Path) -> list[Callable[[], Any]]:
    """Those calls for which S3 answers a fault with a text: all but `exists`, which asks for the headers alone."""
    return [call for name, call in store_calls(store, folder).items() if name != "exists"]
