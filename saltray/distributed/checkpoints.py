"""Checkpoints of a job: `fold-k/checkpoints/epoch-00012/{state.pt, manifest.json}`, the manifest last.

Ray's own upload can report a checkpoint that was never stored (pyarrow's copy_files returns normally when an upload
fails), so Ray is given `Upload`, which goes through the store: digest, read-back, manifest. A job resumes from what
the store holds, not from what Ray remembers.
"""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from saltray.errors import IntegrityError, NotFoundError
from saltray.runs.history import Record
from saltray.runs.layout import CHECKPOINT_MANIFEST, CHECKPOINT_STATE, CHECKPOINTS
from saltray.runs.records import CheckpointManifest
from saltray.storage.arrow import arrow_filesystem
from saltray.storage.base import Store

StateDict = Mapping[str, Any]
"""Of `training.state.FitState`."""
FOLDS = "folds"
"""Key of the state dicts in the file."""


@dataclass
class Upload:
    """Ray Train's `checkpoint_upload_fn` for one checkpoint.

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
            self.done.set()

    def _upload(self, local: Checkpoint, name: str) -> Checkpoint:
        path = Path(local.path, CHECKPOINT_STATE)
        torch.save({FOLDS: list(self.states)}, path)
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


def newest(home: Store) -> tuple[LoadedCheckpoint | None, list[str]]:
    """The newest complete checkpoint of a job, if there is one, and a line for each corrupted newer one."""
    corrupted: list[str] = []
    for folder in reversed(home.folders(CHECKPOINTS)):
        try:
            return load(home, f"{CHECKPOINTS}/{folder}"), corrupted
        except (IntegrityError, NotFoundError) as error:
            corrupted.append(f"checkpoint {folder} is skipped: {error}")
    return None, corrupted


def load(home: Store, key: str) -> LoadedCheckpoint:
    """The checkpoint at `key`; its digest is checked before it is parsed.

    Raises:
        NotFoundError, IntegrityError: the checkpoint is incomplete or corrupted.
    """
    manifest = home.get_record(f"{key}/{CHECKPOINT_MANIFEST}", CheckpointManifest)
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, CHECKPOINT_STATE)
        home.get_file(f"{key}/{CHECKPOINT_STATE}", path, sha256=manifest.sha256)
        states: list[StateDict] = torch.load(path, map_location="cpu", weights_only=True)[FOLDS]
    return LoadedCheckpoint(key, states, manifest)
