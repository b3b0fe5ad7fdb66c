"""A store that asks before it writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from saltray.errors import NotFoundError, RunLockedError
from saltray.storage.base import Store
from saltray.storage.guarded import GuardedStore


class Switch:
    """Forbids writing once it is `off`; counts the questions."""

    def __init__(self) -> None:
        self.off = False
        self.asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.off:
            raise RunLockedError("off")


def test_it_reads_and_writes_as_the_store_does(store: Store, tmp_path: Path) -> None:
    guarded = GuardedStore(store, Switch())
    file = tmp_path / "file"
    file.write_bytes(b"file")
    guarded.put("a/one", b"1")
    assert guarded.put_new("a/one", b"2") is False
    digest = guarded.put_file("a/two", file)
    guarded.get_file("a/two", tmp_path / "copy", sha256=digest)
    assert (tmp_path / "copy").read_bytes() == b"file"
    assert guarded.get("a/one") == store.get("a/one") == b"1"
    assert list(guarded.list()) == list(store.list())
    assert guarded.entry("a/one") == store.entry("a/one")
    assert guarded.folders() == ["a"]
    with pytest.raises(NotFoundError, match="absent: there is no such object"):
        guarded.get("absent")
    guarded.check_writable()
    guarded.delete("a/one")
    guarded.delete_prefix("a")
    assert list(store.list()) == []
    assert guarded == store
    assert hash(guarded) == hash(store)


@pytest.mark.parametrize(
    "write",
    [
        lambda store, _: store.put("a", b"new"),
        lambda store, _: store.put_new("b", b"new"),
        lambda store, file: store.put_file("a", file),
        lambda store, _: store.delete("a"),
        lambda store, _: store.delete_prefix("folder"),
    ],
    ids=["put", "put_new", "put_file", "delete", "delete_prefix"],
)
def test_each_write_is_asked_for(write: Callable[[Store, Path], object], store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"new")
    store.put("a", b"old")
    store.put("folder/a", b"old")
    switch = Switch()
    guarded = GuardedStore(store, switch).sub("x")
    write(guarded, file)
    assert switch.asked == 1
    switch.off = True
    before = list(store.list())
    with pytest.raises(RunLockedError):
        write(GuardedStore(store, switch), file)
    assert list(store.list()) == before
    assert store.get("a") == b"old"
