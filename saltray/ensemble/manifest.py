"""The manifest of an ensemble: everything about a published version but the weights, as JSON in the store."""

import os
import platform
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from saltray.config import Name, StoredConfig, Values
from saltray.data.pixel_range import PixelRange
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import ConfigError, EnsembleError
from saltray.records import MAX_EPOCHS, Count, Fold, Fraction, Many, Pixels, RecordError, Sha256, digest, from_record
from saltray.storage.keys import Key
from saltray.training.evaluation import Evaluation
from saltray.wording import excerpt

FORMAT = 2
READABLE = (1, FORMAT)
"""Format 1 has `threshold` in place of `postprocess`."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model within an ensemble: a fold's weights at the end of a cycle of its schedule."""

    fold: Fold
    snapshot: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 1
    """The number of the cycle, from 1."""
    key: Key
    """Key relative to the version's folder."""
    sha256: Sha256
    score: Fraction
    """Competition score of the fold's held-out tiles at a probability of 0.5, by this model alone."""


@dataclass(frozen=True, kw_only=True)
class SearchProvenance:
    """The search that found a run's values."""

    uri: str
    """Where the search is kept."""
    search: str
    """Its name."""
    trial: str
    """Its best trial."""
    values: Values
    """The values that the run uses: field of the configuration by dotted name -> value."""
    score: Fraction
    """Best validation score of that trial."""
    trials: Count
    """Number of trials."""


@dataclass(frozen=True, kw_only=True)
class WeightsProvenance:
    """The weights that training started from, where some were given."""

    uri: str
    """The file, torchvision's name, or the ensemble's version or the run that the models are of."""
    sha256: tuple[Sha256, ...]
    """Of the file; of an ensemble or a run, of each fold's model. Empty for a name of torchvision's."""
    members: tuple[Fold, ...] = ()
    """Of an ensemble or a run: the fold there of the model that each fold starts from. Else empty."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabelsProvenance:
    """The models that labelled test tiles, and these tiles, where training used some."""

    uri: str
    """The ensemble's version."""
    members: tuple[Fold, ...]
    """For each fold, the fold there of the models that labelled its test tiles."""
    sha256: tuple[Sha256, ...]
    """For each fold, the digest over these models' own."""
    images: Sha256
    """Content digest of all test tiles."""
    tiles: Count
    """Test tiles that were trained on."""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what decides the labels."""
        return digest({"models": self.sha256, "images": self.images})


def _not_empty(members: tuple[Member, ...]) -> tuple[Member, ...]:
    if not members:
        raise ValueError("it should have one member or more")
    return members


@dataclass(frozen=True, kw_only=True)
class EnsembleManifest:
    """The whole of an ensemble: `ensembles/<name>/<version>/manifest.json`, written last and never changed."""

    name: Name
    version: Name
    members: Annotated[Many[Member], AfterValidator(_not_empty)]
    """One per fold and snapshot, in order."""
    height: Pixels
    """Height of a tile in pixels."""
    width: Pixels
    """Width of a tile in pixels."""
    postprocess: Postprocess
    """How probabilities become masks; chosen on the out-of-fold predictions."""
    score: Fraction
    """Out-of-fold competition score at a probability of 0.5."""
    score_at_threshold: Fraction
    """The same with `postprocess`; optimistic, as that was chosen on the same predictions."""
    baseline: Annotated[Fraction, Field(alias="floor")]
    """Score of predicting no salt at all: the share of empty tiles."""
    evaluation: Evaluation | None = None
    """What the out-of-fold predictions are worth, with the cross-fitted score; None if published before it was."""
    run: str
    dataset: str
    """Content digest of the training tiles."""
    pixel_range: PixelRange | None = None
    """Of the training images' files, by which tiles to predict are scaled; None if published before there was it."""
    config: StoredConfig
    """The run's configuration; architecture and preprocessing are in `model` and `train.input_size`."""
    provenance: dict[str, str | None]
    """Versions of the libraries and the git commit; see `provenance`."""
    search_provenance: Annotated[SearchProvenance | None, Field(alias="origin")] = None
    """The search that found the run's values, if there was one."""
    initial_weights: WeightsProvenance | None = None
    """The weights that training started from, if some were given and the version is of a saltray that records them."""
    pseudo_labels: PseudoLabelsProvenance | None = None
    """The models that labelled test tiles, if training used some."""
    format: int = FORMAT

    @classmethod
    def from_json(cls, record: Any) -> Self:
        """Inverse of `records.to_record`.

        Raises:
            EnsembleError: the record is of another format, or is not a manifest.
        """
        if not isinstance(record, Mapping):
            raise EnsembleError("not an ensemble manifest: no JSON object; publish the ensemble again")
        if record.get("format") not in READABLE:
            found, readable = excerpt(record.get("format")), " and ".join(map(str, READABLE))
            raise EnsembleError(f"ensemble manifest has format {found}, this saltray reads {readable}; update saltray")
        if record["format"] == 1 and "threshold" in record:
            record = {name: value for name, value in record.items() if name != "threshold"} | {
                "postprocess": {"threshold": record["threshold"], "min_area": 0, "blank_is_empty": False},
                "format": FORMAT,
            }
        try:
            return from_record(cls, record)
        except (RecordError, ConfigError) as error:
            raise EnsembleError(f"not an ensemble manifest: {error}; publish the ensemble again") from error


def provenance() -> dict[str, str | None]:
    """Versions of Python and of the libraries that decide the numbers, and saltray's git commit (None if unknown)."""
    packages = ("saltray", "torch", "torchvision", "numpy", "ray", "pyarrow")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if root == Path(sysconfig.get_path("purelib")).resolve():
        return os.environ.get("SALTRAY_COMMIT")  # set in the image that this is installed in
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:  # git is not installed: the checkout was copied to this machine
        return None
    return done.stdout.strip() or None
