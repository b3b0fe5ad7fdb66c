"""What the driver sends to the ranks of a job, and what they return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np
import ray
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.tiles import LabelledTiles
from saltray.runs.history import EpochRecord
from saltray.storage.base import Store


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know. No secret may be in it: Ray's dashboard shows it."""

    config: Config
    name: str
    """Its folder in `parent`, and its name for Ray: fold-3, or trial-007 of a search."""
    folds: tuple[int, ...]
    """The folds to train, in turn epoch by epoch; one, except for a search that averages several."""
    tiles: "ray.ObjectRef[LabelledTiles]"
    """All tiles, one copy per node in Ray's object store."""
    fold_of: NDArray[np.int64]
    """[N] fold of each tile."""
    parent: Store
    """The run's or the search's part of the store; it travels as a URI."""
    initial_weights: "ray.ObjectRef[dict[str, NDArray[Any]]] | None" = None
    """The network's weights before training, where some were given."""

    @classmethod
    def template(
        cls,
        config: Config,
        parent: Store,
        *,
        tiles: LabelledTiles,
        fold_of: NDArray[np.int64],
        initial_weights: Mapping[str, NDArray[Any]] | None,
    ) -> Self:
        """A job that lacks its name and folds; its tiles and weights are put into Ray's object store, for all jobs."""
        return cls(
            config=config,
            name="",
            folds=(),
            tiles=ray.put(tiles),
            fold_of=fold_of,
            parent=parent,
            initial_weights=None if initial_weights is None else ray.put(dict(initial_weights)),
        )

    @property
    def home(self) -> Store:
        """The job's own part of the store."""
        return self.parent.sub(self.name)


class LoopConfig(TypedDict):
    """What Ray Train hands to each rank's training loop."""

    job: Job


@dataclass(frozen=True)
class PermanentFailure:
    """A job ended by an error that would recur on every retry, so that Ray must not retry it."""

    reason: str
    diverged: bool


@dataclass(frozen=True)
class TrialHistory:
    """A trial of a search came to its end."""

    epochs: tuple[EpochRecord, ...]
    """All of its epochs, also those of earlier attempts."""
