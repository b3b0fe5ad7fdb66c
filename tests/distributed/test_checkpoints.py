"""Checkpoints of a job: uploaded through the store, and found again, complete and uncorrupted."""

import resource
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint

from saltray.distributed import checkpoints
from saltray.distributed.checkpoints import LoadedCheckpoint, Upload, load
from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.runs.history import NoteRecord
from saltray.runs.layout import checkpoint_folder
from saltray.runs.records import CheckpointManifest
from saltray.storage.base import Store
from saltray.storage.uri import open_store

NOTE = NoteRecord(note="runs on 10.0.0.1", at=7.0)


@pytest.fixture
def store(any_store_uri: str) -> Store:
    """A run's part of a store, on each kind of store."""
    return open_store(any_store_uri)


def state_after(epoch: int) -> Mapping[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((2, 3), float(epoch))}, "lr": [1e-3, 2e-3]}


def save(run: Store, folder: Path, epoch: int) -> Checkpoint:
    """What Ray does to upload the checkpoint of fold 0 after `epoch` epochs."""
    local = local_folder(folder)
    upload = Upload(run, "fold-0", epoch, [state_after(epoch), state_after(-epoch)], (NOTE,))
    uploaded = upload(Checkpoint(str(local)), checkpoint_folder(epoch))
    assert upload.done.is_set()
    assert not local.exists()
    return uploaded


def local_folder(folder: Path) -> Path:
    """Where the upload writes the state first."""
    (folder / "local").mkdir()
    return folder / "local"


def newest(run: Store) -> tuple[LoadedCheckpoint, list[str]]:
    found, corrupted = checkpoints.newest(run.sub("fold-0"))
    assert found is not None
    return found, corrupted


def test_a_checkpoint_is_uploaded_and_found(store: Store, tmp_path: Path) -> None:
    uploaded = save(store, tmp_path, 12)
    assert uploaded.path == "fold-0/checkpoints/epoch-00012"
    with uploaded.as_directory() as folder:  # as Ray reads it
        assert sorted(path.name for path in Path(folder).iterdir()) == ["manifest.json", "state.pt"]
    found, corrupted = newest(store)
    assert (found.key, corrupted) == ("checkpoints/epoch-00012", [])
    assert (found.manifest.epoch, found.manifest.history) == (12, (NOTE,))
    assert [state["epoch"] for state in found.states] == [12, -12]
    assert found.states[0]["lr"] == [1e-3, 2e-3]
    assert torch.equal(found.states[0]["model"]["weight"], torch.full((2, 3), 12.0))


def test_the_state_comes_first_and_the_manifest_last(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[list[str]] = []
    put_record = store.put_record

    def watched(key: str, record: Any) -> None:
        before.append([entry.key for entry in store.list()])
        put_record(key, record)

    monkeypatch.setattr(store, "put_record", watched)
    save(store, tmp_path, 1)
    assert before == [["fold-0/checkpoints/epoch-00001/state.pt"]]
    assert store.exists("fold-0/checkpoints/epoch-00001/manifest.json")


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(f"{tmp_path}/store")


def test_an_upload_that_fails_is_not_reported(
    folder_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(key: str, path: Path) -> str:
        raise StorageError("the store is away")

    monkeypatch.setattr(folder_store, "put_file", away)
    upload, local = Upload(folder_store, "fold-0", 1, [state_after(1)]), local_folder(tmp_path)
    with pytest.raises(StorageError):
        upload(Checkpoint(str(local)), checkpoint_folder(1))
    assert not local.exists()  # each attempt of the job would leave one
    assert upload.done.is_set()  # otherwise the fold would never write a checkpoint again
    assert checkpoints.newest(folder_store.sub("fold-0")) == (None, [])


def test_a_full_folder_of_temporary_files_is_named(folder_store: Store, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"epoch": 1, "model": {"weight": torch.zeros(1 << 16)}}
    upload, local = Upload(folder_store, "fold-0", 1, [big]), local_folder(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))  # a larger file fails half-way, as on a full disk
    try:
        with pytest.raises(StorageError, match="temporary files cannot be written to .*; free some space") as caught:
            upload(Checkpoint(str(local)), checkpoint_folder(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert upload.done.is_set()
    assert list(folder_store.list()) == []
    assert not local.exists()


def test_the_newest_is_the_one_of_most_epochs(folder_store: Store, tmp_path: Path) -> None:
    for epoch in (10, 9, 100, 11):  # neither the order of writing nor that of the words
        save(folder_store, tmp_path, epoch)
    found, corrupted = newest(folder_store)
    assert (found.key, found.states[0]["epoch"], corrupted) == ("checkpoints/epoch-00100", 100, [])


def test_without_a_checkpoint_there_is_none(folder_store: Store) -> None:
    assert checkpoints.newest(folder_store.sub("fold-0")) == (None, [])


def test_corrupted_checkpoints_are_skipped_and_named(folder_store: Store, tmp_path: Path) -> None:
    store = folder_store
    for epoch in range(1, 6):
        save(store, tmp_path, epoch)
    home = "fold-0/checkpoints/epoch-0000"
    flipped = bytearray(store.get(f"{home}5/state.pt"))
    flipped[len(flipped) // 2] ^= 1
    store.put(f"{home}5/state.pt", bytes(flipped))
    store.delete(f"{home}4/manifest.json")  # half written
    store.delete(f"{home}3/state.pt")
    store.put(f"{home}2/manifest.json", b"{")
    found, corrupted = newest(store)
    assert (found.key, found.states[0]["epoch"]) == ("checkpoints/epoch-00001", 1)
    reasons = {"00005": "its SHA-256 is", "00004": "no such object", "00003": "no such object", "00002": "not JSON"}
    for line, (name, reason) in zip(corrupted, reasons.items(), strict=True):
        assert line.startswith(f"checkpoint epoch-{name} is skipped: ")
        assert reason in line
        assert "\n" not in line
    with pytest.raises(IntegrityError):
        load(store.sub("fold-0"), "checkpoints/epoch-00005")
    with pytest.raises(NotFoundError):
        load(store.sub("fold-0"), "checkpoints/epoch-00004")


def test_a_state_that_is_no_plain_data_is_never_unpickled(folder_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"folds": [Path("/")]}, path)  # any class but torch's own
    digest = folder_store.put_file("checkpoints/epoch-00001/state.pt", path)
    manifest = CheckpointManifest(epoch=1, sha256=digest, history=())
    folder_store.put_record("checkpoints/epoch-00001/manifest.json", manifest)
    with pytest.raises(IntegrityError, match=r"epoch-00001/state.pt cannot be read: more than tensors$"):
        load(folder_store, "checkpoints/epoch-00001")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "cannot be read: File is not a zip file"),
        ({"other": []}, "has no list of states"),
        ([1, 2], "has no list of states"),
        ({"folds": [3]}, "has no list of states"),
    ],
)
def test_a_state_of_another_form_is_skipped(folder_store: Store, tmp_path: Path, content: Any, fault: str) -> None:
    save(folder_store, tmp_path, 1)
    put_state(folder_store, tmp_path, 2, content)
    found, (line,) = newest(folder_store)
    assert found.manifest.epoch == 1
    assert line.startswith("checkpoint epoch-00002 is skipped: ")
    assert fault in line


def put_state(run: Store, folder: Path, epoch: int, content: Any) -> None:
    """A checkpoint of anything, with the right digest."""
    path = folder / "state.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    key = f"fold-0/checkpoints/epoch-{epoch:05d}"
    digest = run.put_file(f"{key}/state.pt", path)
    run.put_record(f"{key}/manifest.json", CheckpointManifest(epoch=epoch, sha256=digest, history=()))


def test_a_compressed_state_is_not_unpacked(folder_store: Store, tmp_path: Path) -> None:
    save(folder_store, tmp_path, 1)
    torch.save({"folds": [state_after(2)]}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "state.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    put_state(folder_store, tmp_path, 2, (tmp_path / "state.pt").read_bytes())
    found, (line,) = newest(folder_store)
    assert found.manifest.epoch == 1
    assert line.endswith("is compressed")


def test_the_newest_that_fits_is_taken(folder_store: Store, tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(folder_store, tmp_path, epoch)
    folder_store.put(
        "fold-0/checkpoints/epoch-00003/manifest.json", folder_store.get("fold-0/checkpoints/epoch-00002/manifest.json")
    )
    home = folder_store.sub("fold-0")
    found, lines = checkpoints.newest(home, lambda states: "too new" if states[0]["epoch"] > 1 else None)
    assert found is not None
    assert found.manifest.epoch == 1
    assert "epoch is 2, which is of another checkpoint" in lines[0]
    assert lines[1] == "checkpoint epoch-00002 is skipped: too new"
