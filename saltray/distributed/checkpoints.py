"""Checkpoints of a job: `fold-k/checkpoints/epoch-0012/{state.pt, manifest.json}`, the manifest last.

Ray's own upload can report a checkpoint that was never stored (pyarrow's copy_files returns normally when an upload
fails), so Ray is given `Upload`, which goes through the store: digest, read-back, manifest. A job resumes from what
the store holds, not from what Ray remembers.
"""

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from saltray.distributed.run_records import CHECKPOINTS
from saltray.errors import IntegrityError, NotFoundError
from saltray.storage.arrow import arrow_filesystem
from saltray.storage.base import Store

STATE = "state.pt"


def name_of(epoch: int) -> str:
    """Key, below the job's folder, of the checkpoint after `epoch` epochs."""
    return f"{CHECKPOINTS}/epoch-{epoch:05d}"


@dataclass
class Upload:
    """Ray Train's `checkpoint_upload_fn` for one checkpoint.

    Args:
        run: the run's part of the store, where Ray keeps its own records of the job too.
        job: name of the job, which is its folder.
        epoch: finished epochs.
        state: what to keep; tensors on the CPU that nobody changes any more.
    """

    run: Store
    job: str
    epoch: int
    state: dict[str, Any]
    history: tuple[dict[str, Any], ...] = ()
    """The job's lines so far; the checkpoint may be in the store before they are."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the upload has ended, well or not."""

    def __call__(self, local: Checkpoint, name: str) -> Checkpoint:
        try:
            return self._upload(local, name)
        finally:
            self.done.set()

    def _upload(self, local: Checkpoint, name: str) -> Checkpoint:
        path = Path(local.path, STATE)
        torch.save(self.state, path)
        key = f"{self.job}/{name}"
        digest = self.run.put_file(f"{key}/{STATE}", path)
        self.run.put_json(f"{key}/manifest.json", {"epoch": self.epoch, "sha256": digest, "history": self.history})
        return Checkpoint(key, arrow_filesystem(self.run))


def detach(state: Any) -> Any:
    """A copy of a state dict on the CPU, so that training can go on while the copy is written."""
    match state:
        case torch.Tensor():
            return state.detach().to("cpu", copy=True)
        case dict():
            return {key: detach(value) for key, value in state.items()}
        case list() | tuple():
            return type(state)(detach(value) for value in state)
    return state


def newest(job: Store) -> tuple[str | None, dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint of a job.

    Returns:
        its key below the job's folder and its state, None and None without one; a line for each damaged newer one.
    """
    damaged: list[str] = []
    for folder in reversed(job.folders(CHECKPOINTS)):
        key = f"{CHECKPOINTS}/{folder}"
        try:
            return key, load(job, key), damaged
        except (IntegrityError, NotFoundError) as error:
            damaged.append(f"checkpoint {folder} is passed over: {error}")
    return None, None, damaged


def load(job: Store, key: str) -> dict[str, Any]:
    """The state kept at `key`; its digest is checked before it is parsed.

    Raises:
        NotFoundError, IntegrityError: the checkpoint is not whole.
    """
    record = job.get_json(f"{key}/manifest.json")
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, STATE)
        job.get_file(f"{key}/{STATE}", path, sha256=record["sha256"])
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
