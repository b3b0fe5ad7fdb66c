"""What a run keeps in the store, as typed records."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator

from saltray.config import Name, PretrainConfig, StoredConfig
from saltray.data.folds import FoldBalance
from saltray.ensemble.manifest import PseudoLabelsProvenance, SearchProvenance, WeightsProvenance
from saltray.records import MAX_EPOCHS, MAX_FOLDS, Count, Epoch, Fold, Fraction, Many, Seconds, Sha256
from saltray.runs.history import HISTORY_BYTES, Record
from saltray.runs.layout import WEIGHTS
from saltray.storage.keys import Key
from saltray.wording import excerpt


def _folds_by_tile(value: Any) -> dict[str, int]:
    # In Python, since pydantic would list a fault for each of a million tiles.
    if not isinstance(value, dict):
        raise ValueError("it should be an object")
    for tile, fold in value.items():
        if type(fold) is not int or not 0 <= fold < MAX_FOLDS:
            raise ValueError(f"it should have a fold for each tile, and has {excerpt(fold)} for {excerpt(tile)}")
    return value


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """`runs/<run>/manifest.json`: what the run is; written first, and only once."""

    run: Name
    identity: Sha256
    """Digest of all that decides the results: settings, tiles and initial weights."""
    config: StoredConfig
    dataset: Sha256
    """Content digest of the tiles."""
    search_provenance: Annotated[SearchProvenance | None, Field(alias="origin")] = None
    """The search that the configuration's values come from, where one was named."""
    initial_weights: WeightsProvenance | None = None
    """The weights that training starts from, where some were given."""
    pseudo_labels: PseudoLabelsProvenance | None = None
    """The models that label test tiles, where training uses some."""
    provenance: dict[str, str | None]
    """Versions of the libraries, and the git commit."""


@dataclass(frozen=True, kw_only=True)
class PretrainManifest:
    """`pretrained/<name>/manifest.json`: what the pretraining is; written first, and only once."""

    name: Name
    identity: Sha256
    """Digest of all that decides the result: settings, images and initial weights."""
    config: StoredConfig
    """Of this, model, optim, augment and train decide the result."""
    pretrain: PretrainConfig
    dataset: Sha256
    """Content digest of the images."""
    tiles: Count
    """Images, with and without masks."""
    initial_weights: WeightsProvenance | None = None
    """The weights that training starts from, where some were given."""
    provenance: dict[str, str | None]
    """Versions of the libraries, and the git commit."""


@dataclass(frozen=True, kw_only=True)
class PretrainRecord:
    """`pretrained/<name>/result.json`: written last, so its presence means 'finished'."""

    loss: float
    """Mean loss of the last epoch."""
    epochs: Epoch
    seconds: Seconds
    """Time in the training loop, without start-up, summed over interruptions."""
    weights_sha256: Sha256
    """Digest of `model.safetensors`."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """`runs/<run>/folds.json`: the split, the same for everyone who works on the run."""

    MAX_BYTES: ClassVar[int] = 2**27
    """Two million tiles, with ids of 50 characters."""
    fold_of: Annotated[dict[str, int], PlainValidator(_folds_by_tile)]
    """Tile id -> fold."""
    balance: Many[FoldBalance]


@dataclass(frozen=True, kw_only=True)
class PseudoLabelsRecord:
    """`pseudo-labels/fold-k.json` of a fold or a trial: written after the table of labels, which it describes."""

    digest: Sha256
    """Of the models that gave the labels, and of the test tiles."""
    sha256: Sha256
    """Digest of `fold-k.parquet`."""
    tiles: Count
    """Test tiles, all of which are labelled."""


@dataclass(frozen=True, kw_only=True)
class PredictionCost:
    """What predicting the held-out tiles gave and cost, once with their mirror images and once without."""

    score_without_tta: Fraction
    """Competition score without the mirror images, at a probability of 0.5."""
    seconds: Seconds
    """Time of one device for a tile and its mirror image."""
    device: str
    """Its name."""
    gains: tuple[Count, ...] = ()
    """Tiles whose score the mirror images change by -10, -9, .. 10 tenths; empty if written before there was it."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One of a fold's models: the weights at the end of a cycle."""

    cycle: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    """Its number, from 1."""
    key: Key
    """Of the weights, relative to the fold."""
    sha256: Sha256
    """Digest of the weights."""
    score: Fraction
    """Competition score of the held-out tiles at a probability of 0.5, by this model alone."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """`runs/<run>/fold-k/result.json`: what training one fold gave.

    With several snapshots, the scores are of the mean of their probabilities.
    """

    fold: Fold
    tiles: Count
    """Held-out tiles of this fold."""
    score: Fraction
    """Competition score of the held-out tiles at a probability of 0.5, 0..1."""
    iou: Fraction
    """Intersection over union of all held-out pixels together, 0..1."""
    dice: Fraction
    """Dice coefficient of all held-out pixels together, 0..1."""
    epochs: Epoch
    seconds: Seconds
    """Time in the training loop, without start-up, summed over interruptions."""
    started: Seconds
    """When the ranks first entered the loop: seconds since 1970."""
    finished: Seconds
    """When the fold was done: seconds since 1970."""
    weights_sha256: Sha256
    """Digest of `fold-k/model.safetensors`."""
    oof_sha256: Sha256
    """Digest of `fold-k/oof.parquet`."""
    snapshots: tuple[Snapshot, ...] = ()
    """The models that enter the ensemble, the oldest first. Empty in a result of saltray 0.1; see `models`."""
    cost: PredictionCost | None = None
    """Of the predictions of the last model; None if they were written before there was it."""

    @property
    def models(self) -> tuple[Snapshot, ...]:
        """The models that enter the ensemble, the oldest first."""
        return self.snapshots or (Snapshot(cycle=1, key=WEIGHTS, sha256=self.weights_sha256, score=self.score),)


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """`fold-k/checkpoints/epoch-00012/manifest.json`: written after the state, so its presence means 'complete'."""

    MAX_BYTES: ClassVar[int] = HISTORY_BYTES
    epoch: Epoch
    """Finished epochs."""
    sha256: Sha256
    """Digest of the state."""
    history: Many[Record]
    """The records so far; the checkpoint may be in the store before they are."""
