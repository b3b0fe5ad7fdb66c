"""Checkpoints of a job: `fold-k/checkpoints/epoch-00012/{state.pt, manifest.json}`, the manifest last.

Ray's own upload can report a checkpoint that was never stored (pyarrow's copy_files returns normally when an upload
fails), so Ray is given `Upload`, which goes through the store: digest, read-back, manifest. A job resumes from what
the store holds, not from what Ray remembers.
"""

import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ray.train import Checkpoint

from saltray.errors import IntegrityError, NotFoundError, one_line
from saltray.runs.history import Record
from saltray.runs.layout import CHECKPOINT_MANIFEST, CHECKPOINT_STATE, CHECKPOINTS, checkpoint_epoch
from saltray.runs.records import CheckpointManifest
from saltray.storage.arrow import arrow_filesystem
from saltray.storage.base import Store
from saltray.storage.files import no_scratch, scratch_folder

StateDict = Mapping[str, Any]
"""Of `training.state.FitState`."""
FOLDS = "folds"
"""Key of the state dicts in the file."""


@dataclass
class Upload:
    """Ray Train's `checkpoint_upload_fn` for one checkpoint, whose local folder it deletes.

    Args:
        parent: the run's or search's part of the store, where Ray keeps its own records of the job too.
        job: name of the job, which is its folder.
        epoch: finished epochs.
        states: one per fold of the job; tensors on the CPU that do not change any more.
    """

    parent: Store
    job: str
    epoch: int
    states: Sequence[StateDict]
    history: tuple[Record, ...] = ()
    """The job's records so far; the checkpoint may be in the store before they are."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the upload has ended, with or without success."""

    def __call__(self, local: Checkpoint, name: str) -> Checkpoint:
        try:
            return self._upload(local, name)
        finally:
            # Ray deletes the folder only after an upload that succeeded.
            shutil.rmtree(local.path, ignore_errors=True)
            self.done.set()

    def _upload(self, local: Checkpoint, name: str) -> Checkpoint:
        path = Path(local.path, CHECKPOINT_STATE)
        try:
            torch.save({FOLDS: list(self.states)}, path)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError of its own
            raise no_scratch(error) from error
        key = f"{self.job}/{name}"
        digest = self.parent.put_file(f"{key}/{CHECKPOINT_STATE}", path)
        manifest = CheckpointManifest(epoch=self.epoch, sha256=digest, history=self.history)
        self.parent.put_record(f"{key}/{CHECKPOINT_MANIFEST}", manifest)
        return Checkpoint(key, arrow_filesystem(self.parent))


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that was read and checked."""

    key: str
    """Its folder below the job's."""
    states: list[StateDict]
    """One per fold of the job."""
    manifest: CheckpointManifest


def newest(
    home: Store, misfit: Callable[[list[StateDict]], str | None] | None = None
) -> tuple[LoadedCheckpoint | None, list[str]]:
    """The newest complete checkpoint of a job, if there is one, and a line for each corrupted newer one.

    Args:
        home: the job's part of the store.
        misfit: why training cannot resume from these states; None if it can.
    """
    corrupted: list[str] = []
    for folder in reversed(home.folders(CHECKPOINTS)):
        try:
            found = load(home, f"{CHECKPOINTS}/{folder}")
            fault = None if misfit is None else misfit(found.states)
        except (IntegrityError, NotFoundError) as error:
            fault = str(error)
        if fault is None:
            return found, corrupted
        corrupted.append(f"checkpoint {folder} is skipped: {fault}")
    return None, corrupted


def load(home: Store, key: str) -> LoadedCheckpoint:
    """The checkpoint at `key`; its digest is checked before it is parsed.

    Raises:
        NotFoundError, IntegrityError: the checkpoint is incomplete or corrupted.
    """
    manifest_key, state_key = f"{key}/{CHECKPOINT_MANIFEST}", f"{key}/{CHECKPOINT_STATE}"
    manifest = home.get_record(manifest_key, CheckpointManifest)
    if checkpoint_epoch(manifest_key) != manifest.epoch:
        raise IntegrityError(f"{home.uri}/{manifest_key}: epoch is {manifest.epoch}, which is of another checkpoint")
    with scratch_folder() as folder:
        path = folder / CHECKPOINT_STATE
        home.get_file(state_key, path, sha256=manifest.sha256)
        states = _read_states(path, f"{home.uri}/{state_key}")
    return LoadedCheckpoint(key, states, manifest)


def _read_states(path: Path, where: str) -> list[StateDict]:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch.save compresses nothing, and what is compressed may grow without limit
            raise IntegrityError(f"{packed[0]} is compressed")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make zip, pickle and torch raise almost any exception
        # torch's own message has many lines, and suggests weights_only=False, which would run code from the file.
        reason = "more than tensors" if isinstance(error, UnpicklingError) else one_line(error, 200)
        raise IntegrityError(f"{where} cannot be read: {reason}") from error
    states = content.get(FOLDS) if isinstance(content, dict) else None
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise IntegrityError(f"{where} has no list of states")
    return states
