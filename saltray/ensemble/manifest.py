"""The records an ensemble is made of; they are JSON in the store."""

import os
import platform
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from saltray.errors import EnsembleError, IntegrityError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What training one fold gave: `runs/<run>/fold-k/result.json`, written last, so its presence means 'finished'."""

    fold: int
    tiles: int
    """Held-out tiles of this fold."""
    score: float
    """Competition score of the held-out tiles at a probability of 0.5, 0..1."""
    iou: float
    """Intersection over union of all held-out pixels together, 0..1."""
    dice: float
    """Dice coefficient of all held-out pixels together, 0..1."""
    epochs: int
    seconds: float
    """Time in the loop, start-up left out, summed over interruptions."""
    started: float
    """When the ranks took up the loop for the first time: seconds since 1970."""
    finished: float
    """When the fold was done: seconds since 1970."""
    weights_sha256: str
    """Digest of `fold-k/model.safetensors`."""
    oof_sha256: str
    """Digest of `fold-k/oof.parquet`."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`.

        Raises:
            IntegrityError: the record has other fields.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise IntegrityError(f"not a fold's result: {error}; delete its result.json and train it again") from error


@dataclass(frozen=True, kw_only=True)
class Member:
    """One fold's model within an ensemble."""

    fold: int
    key: str
    """Key below the version's folder."""
    sha256: str
    score: float
    """Competition score of this fold's held-out tiles at 0.5."""


@dataclass(frozen=True, kw_only=True)
class EnsembleManifest:
    """An ensemble, whole: `ensembles/<name>/<version>/manifest.json`, written last and never changed."""

    name: str
    version: str
    members: tuple[Member, ...]
    height: int
    """Height of a tile in pixels."""
    width: int
    """Width of a tile in pixels."""
    threshold: float
    """Probability above which a pixel is salt; chosen on the out-of-fold predictions."""
    score: float
    """Out-of-fold competition score at a probability of 0.5."""
    score_at_threshold: float
    """The same at `threshold`; optimistic by the choice of one number."""
    floor: float
    """Score of predicting no salt at all: the share of empty tiles."""
    run: str
    dataset: str
    """Content digest of the training tiles."""
    config: dict[str, Any]
    """The run's whole configuration; architecture and preprocessing are in `model` and `train.input_size`."""
    provenance: dict[str, Any]
    origin: dict[str, Any] | None = None
    """The search that found the run's values, where there was one: its name and URI, trial, values and score."""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            EnsembleError: another format, or not a manifest.
        """
        if not isinstance(record, Mapping):
            raise EnsembleError("not an ensemble manifest: no JSON object; publish the ensemble again")
        if record.get("format") != FORMAT:
            raise EnsembleError(
                f"ensemble manifest has format {record.get('format')!r}, this saltray reads {FORMAT}; update saltray"
            )
        try:
            members = tuple(Member(**member) for member in record["members"])
            return cls(**{**record, "members": members})
        except (KeyError, TypeError) as error:
            raise EnsembleError(f"not an ensemble manifest: {error}; publish the ensemble again") from error


def provenance() -> dict[str, Any]:
    """Versions of Python and the libraries that decide the numbers, and saltray's git commit where it is a checkout."""
    packages = ("saltray", "torch", "torchvision", "numpy", "ray", "pyarrow")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if root == Path(sysconfig.get_path("purelib")).resolve():
        return os.environ.get("SALTRAY_COMMIT")  # of the image that this is installed in
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:  # no git on this machine: a checkout that was copied there
        return None
    return done.stdout.strip() or None
