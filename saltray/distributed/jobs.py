"""What the driver sends to the ranks of a job, and what they return."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np
import ray
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.tiles import Tiles
from saltray.ensemble.manifest import PseudoLabelsProvenance
from saltray.runs.history import EpochRecord
from saltray.runs.pseudo_labels import Teacher
from saltray.storage.base import Store

if TYPE_CHECKING:  # which loads torch
    from saltray.training.tile_pool import TilePart


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know. No secret may be in it: Ray's dashboard shows it."""

    config: Config
    name: str
    """Its folder in `parent`, and its name for Ray: fold-3, trial-007 of a search, or that of a pretraining."""
    folds: tuple[int, ...]
    """The folds to train, in turn epoch by epoch; one, except for a search that averages several."""
    tiles: "tuple[ray.ObjectRef[TilePart], ...]"
    """All tiles in parts, one copy per node in Ray's object store; with masks, except for a pretraining."""
    fold_of: "ray.ObjectRef[NDArray[np.int64]]"
    """[N] fold of each tile; a pretraining, which has one fold, trains on all."""
    parent: Store
    """The run's or the search's part of the store, or that of all pretrainings; it travels as a URI."""
    initial_weights: "tuple[ray.ObjectRef[dict[str, NDArray[Any]]], ...]" = ()
    """The network's weights before training, one per fold of the split; empty where none were given."""
    teacher: Teacher | None = None
    """The models that label test tiles, where training uses some."""
    test: "tuple[ray.ObjectRef[Tiles], ...]" = ()
    """All test tiles in shards, as `tiles`."""
    pseudo_labels: PseudoLabelsProvenance | None = None
    """What decides the labels, and how many are used."""

    @classmethod
    def template(
        cls,
        config: Config,
        parent: Store,
        *,
        tiles: "Iterable[TilePart]",
        fold_of: NDArray[np.int64],
        initial_weights: Sequence[Mapping[str, NDArray[Any]]] = (),
        teacher: Teacher | None = None,
        test: Iterable[Tiles] = (),
        pseudo_labels: PseudoLabelsProvenance | None = None,
    ) -> Self:
        """A job that lacks its name and folds; its tiles and weights are put into Ray's object store, for all jobs.

        No more than one part of the tiles need be in memory here.
        Weights that several folds share are put there once.
        """
        weights = {id(each): each for each in initial_weights}
        shared = {key: ray.put(dict(each)) for key, each in weights.items()}
        return cls(
            config=config,
            name="",
            folds=(),
            tiles=tuple(ray.put(part) for part in tiles),
            fold_of=ray.put(fold_of),
            parent=parent,
            initial_weights=tuple(shared[id(each)] for each in initial_weights),
            teacher=teacher,
            test=tuple(ray.put(shard) for shard in test),
            pseudo_labels=pseudo_labels,
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
