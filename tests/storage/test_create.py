"""Creating a file that must not exist yet, with hard links and without."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saltray.storage import create
from saltray.storage.create import STALE_CLAIM_S, create_from
from saltray.storage.files import TEMP_PREFIX
from saltray.storage.uri import open_store

REFUSALS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK]


def temporary(folder: Path, text: str) -> Path:
    path = folder / f"{TEMP_PREFIX}{text}"
    path.write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A file system without hard links, which refuses them with the error that the test names."""
    number = getattr(request, "param", errno.EPERM)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(os, "link", refuse)
    create._tell_once.cache_clear()


def test_put_new_succeeds_although_the_network_mount_lost_the_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # raises FileExistsError, as a repeated request does

    store = open_store(str(tmp_path))
    assert store.put_new("other", b"1") is True
    monkeypatch.setattr(os, "link", twice)
    assert store.put_new("a", b"1") is True
    assert store.put_new("other", b"1") is False
    assert names(tmp_path) == ["a", "other"]


@pytest.mark.parametrize("no_links", REFUSALS, indirect=True)
@pytest.mark.usefixtures("no_links")
def test_without_hard_links_a_file_is_created_once(tmp_path: Path) -> None:
    assert create_from(temporary(tmp_path, "one"), tmp_path / "a") is True
    assert create_from(temporary(tmp_path, "two"), tmp_path / "a") is False
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == [f"{TEMP_PREFIX}two", "a"]


@pytest.mark.usefixtures("no_links")
def test_that_there_are_no_hard_links_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(str(tmp_path))
    with caplog.at_level(logging.WARNING, "saltray"):
        for name in "abc":
            store.put_new(name, b"1")
    assert [record.message for record in caplog.records] == [
        "the store's file system has no hard links; new objects are claimed by exclusive creation instead"
    ]
    store.check_writable()


@pytest.mark.usefixtures("no_links")
def test_the_claim_of_a_live_process_is_respected_and_a_stale_one_removed(tmp_path: Path) -> None:
    claim = tmp_path / f"{TEMP_PREFIX}claim-a"
    claim.write_text("other")
    with pytest.raises(BlockingIOError):
        create_from(temporary(tmp_path, "one"), tmp_path / "a")
    assert claim.exists()
    now = claim.stat().st_mtime
    os.utime(claim, (now, now - STALE_CLAIM_S - 1))
    assert open_store(str(tmp_path)).put_new("a", b"1") is True  # retried at once
    assert not claim.exists()


@pytest.mark.usefixtures("no_links")
def test_a_process_whose_claim_was_taken_for_stale_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = tmp_path / f"{TEMP_PREFIX}claim-a"
    exists = Path.exists

    def meanwhile(path: Path) -> bool:
        if path.name == "a":
            claim.write_text("another's")
        return exists(path)

    monkeypatch.setattr(Path, "exists", meanwhile)
    with pytest.raises(BlockingIOError):
        create_from(temporary(tmp_path, "one"), tmp_path / "a")
    assert claim.read_text() == "another's"
    assert not (tmp_path / "a").is_file()


@pytest.mark.usefixtures("no_links")
def test_a_process_whose_claim_was_removed_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = tmp_path / f"{TEMP_PREFIX}claim-a"
    exists, removed = Path.exists, []

    def meanwhile(path: Path) -> bool:
        if path.name == "a" and not removed:
            removed.append(claim)
            claim.unlink()
        return exists(path)

    monkeypatch.setattr(Path, "exists", meanwhile)
    assert open_store(str(tmp_path)).put_new("a", b"1") is True
    assert removed
    assert names(tmp_path) == ["a"]


@pytest.mark.usefixtures("no_links")
def test_a_claim_that_took_the_place_of_a_stale_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = tmp_path / f"{TEMP_PREFIX}claim-a"
    claim.write_text("dead")
    now = claim.stat().st_mtime
    os.utime(claim, (now, now - STALE_CLAIM_S - 1))
    stat, asked = Path.stat, []

    def meanwhile(path: Path, **how: bool) -> os.stat_result:
        found = stat(path, **how)
        if path == claim and not asked:
            asked.append(path)
            claim.write_text("of a live process")
        return found

    monkeypatch.setattr(Path, "stat", meanwhile)
    with pytest.raises(BlockingIOError):
        create_from(temporary(tmp_path, "one"), tmp_path / "a")
    assert asked
    assert claim.read_text() == "of a live process"
    assert names(tmp_path) == sorted([claim.name, f"{TEMP_PREFIX}one"])


def test_of_several_processes_without_hard_links_one_creates_the_object(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from saltray.storage.uri import open_store\n"
        "def refuse(*_): raise PermissionError(1, 'Operation not permitted')\n"
        "os.link = refuse\n"
        "store = open_store(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "print(*[number for number in range(40) if store.put_new(f'race-{number}', sys.argv[2].encode())])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    racers = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    won = {racer.args[-1]: racer for racer in racers}  # type: ignore[index]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    created = {name: racer.communicate(timeout=120)[0].split() for name, racer in won.items()}
    assert sorted(int(number) for numbers in created.values() for number in numbers) == list(range(40))
    for name, numbers in created.items():
        assert all((tmp_path / f"race-{number}").read_text() == name for number in numbers)
    assert len(names(tmp_path)) == 40  # neither a claim nor a temporary file is left
