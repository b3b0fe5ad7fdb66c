"""What train, tune and range_test have in common: the inputs, read and checked once in the driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.folds import assign_folds
from saltray.data.packing import DatasetManifest, load_tiles
from saltray.data.tiles import LabelledTiles
from saltray.distributed.preflight import check_store_uri
from saltray.storage.base import Store
from saltray.storage.uri import open_store

if TYPE_CHECKING:
    from saltray.distributed.jobs import Job


@dataclass(frozen=True, eq=False)
class Prepared:
    """The inputs of a run or a search."""

    tiles: LabelledTiles
    fold_of: NDArray[np.int64]
    """[N] fold of each tile."""
    dataset: DatasetManifest
    initial_weights: Mapping[str, NDArray[Any]] | None
    """The network's weights before training by name, where model.weights names some."""

    @property
    def initial_digest(self) -> str | None:
        """SHA-256, in hex, of the initial weights."""
        if self.initial_weights is None:
            return None
        whole = sha256()
        for name in sorted(self.initial_weights):
            whole.update(self.initial_weights[name].tobytes())
        return whole.hexdigest()


def open_for_writing(uri: str) -> Store:
    """The store at a URI, proven to be writable.

    Raises:
        ConfigError: it cannot be a store, or not one for jobs of a cluster.
        StorageError: it cannot be reached or written.
    """
    check_store_uri(uri)
    store = open_store(uri)
    store.check_writable()
    return store


def prepare(config: Config, store: Store) -> Prepared:
    """Read the tiles (packing them into the store first), split them, and load the initial weights.

    Raises:
        DataError: the tiles cannot be used; all faults at once.
        ConfigError: they are too few for the folds.
        ModelError: the initial weights cannot be read, or do not fit.
        StorageError: the data or the store cannot be reached.
    """
    tiles, dataset = load_tiles(config.data, store)
    fold_of = assign_folds(tiles.ids, tiles.masks, config.folds)
    return Prepared(tiles, fold_of, dataset, _initial_weights(config))


def _initial_weights(config: Config) -> Mapping[str, NDArray[Any]] | None:
    """Read once, by the driver: a wrong name is found before anything starts, and every rank starts alike."""
    if config.model.weights is None:
        return None
    from saltray.models.weights import load_weights
    from saltray.training.state import initial_model

    model = initial_model(config)
    load_weights(model, config.model.weights)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def share(prepared: Prepared, config: Config, parent: Store) -> "Job":
    """Put the inputs into Ray's object store, one copy per node; returns a job that lacks its name and folds."""
    from saltray.distributed.jobs import Job

    return Job.template(
        config,
        parent,
        tiles=prepared.tiles,
        fold_of=prepared.fold_of,
        initial_weights=prepared.initial_weights,
    )
