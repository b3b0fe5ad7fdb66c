"""What a run keeps in the store, as typed records."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from saltray.config import Config
from saltray.data.folds import FoldBalance
from saltray.ensemble.manifest import SearchProvenance
from saltray.runs.history import Record


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """`runs/<run>/manifest.json`: what the run is; written first, and only once."""

    run: str
    identity: str
    """Digest of all that decides the results: settings, tiles and initial weights."""
    config: Config
    dataset: str
    """Content digest of the tiles."""
    search_provenance: Annotated[SearchProvenance | None, Field(alias="origin")] = None
    """The search that the configuration's values come from, where one was named."""
    provenance: dict[str, str | None]
    """Versions of the libraries, and the git commit."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """`runs/<run>/folds.json`: the split, the same for everyone who works on the run."""

    fold_of: dict[str, int]
    """Tile id -> fold."""
    balance: tuple[FoldBalance, ...]


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """`runs/<run>/fold-k/result.json`: what training one fold gave."""

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
    """Time in the training loop, without start-up, summed over interruptions."""
    started: float
    """When the ranks first entered the loop: seconds since 1970."""
    finished: float
    """When the fold was done: seconds since 1970."""
    weights_sha256: str
    """Digest of `fold-k/model.safetensors`."""
    oof_sha256: str
    """Digest of `fold-k/oof.parquet`."""


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """`fold-k/checkpoints/epoch-00012/manifest.json`: written after the state, so its presence means 'complete'."""

    epoch: int
    """Finished epochs."""
    sha256: str
    """Digest of the state."""
    history: tuple[Record, ...]
    """The records so far; the checkpoint may be in the store before they are."""
