"""What train, tune and range_test have in common: the inputs, read and checked once in the driver."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config, ModelConfig
from saltray.data.folds import assign_folds, check_count
from saltray.data.packing import DatasetManifest, DatasetSize, dataset_size, load_tiles
from saltray.data.tiles import LabelledTiles
from saltray.distributed.paths import check_kept
from saltray.errors import ConfigError, DataError
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
    check_kept("the store", uri)
    store = open_store(uri)
    store.check_writable()
    return store


def prepare(config: Config, store: Store, variants: Iterable[Config] = ()) -> Prepared:
    """Load the initial weights, read the tiles (packing them into the store first), and split them.

    Args:
        config: the run.
        store: where packed data sets are kept.
        variants: the configurations of a search's trials.

    Raises:
        DataError: the tiles cannot be used; all faults at once.
        ConfigError: the tiles do not fit the configuration or a variant.
        ModelError: the initial weights cannot be read, or do not fit.
        StorageError: the data or the store cannot be reached.
    """
    variants = list(variants)
    with suppress(DataError):  # of one tile; what reads them all tells all faults
        check_inputs(config, store, variants)
    weights = initial_weights(config)
    tiles, dataset = load_tiles(config.data, store)
    fold_of = assign_folds(tiles.ids, tiles.masks, config.folds)
    return Prepared(tiles, fold_of, dataset, weights)


def check_inputs(config: Config, store: Store, variants: Iterable[Config] = ()) -> DatasetSize:
    """Refuse what number and size of the tiles tell at once, before all of them are read and anything is written.

    Args:
        config: the run.
        store: where packed data sets are kept; nothing is written to it.
        variants: the configurations of a search's trials.

    Raises:
        DataError: there are no tiles, or the first cannot be decoded.
        ConfigError: the tiles do not fit the configuration or a variant, or the network cannot train on its batches.
        StorageError: the data or the store cannot be reached.
    """
    size = dataset_size(config.data, store)
    check_count(config.folds, size.count)
    checked = set()
    for each in (config, *variants):
        pixels, factor = each.train.input_size, each.train.resize
        needed = max(size.height, size.width) * factor
        if needed > pixels:
            enlarged = f", enlarged {factor} times by train.resize" * (factor > 1)
            raise ConfigError(
                f"the tiles have {size.height}x{size.width} pixels{enlarged}, but train.input_size is {pixels}; use "
                f"--train.input-size {each.model.fitting_size(needed)}, or smaller tiles"
            )
        ranks = each.cluster.workers_per_fold
        batch = each.train.batch_size // (1 if each.train.sync_batchnorm else ranks)
        if (shape := (each.model, pixels, batch)) not in checked:
            _check_network(*shape)
            checked.add(shape)
    return size


def _check_network(model: ModelConfig, pixels: int, batch: int) -> None:
    """Pass a batch through a network whose tensors have shapes and no values, as the first training step would."""
    import torch

    from saltray.models.build import build_model

    with torch.device("meta"):
        try:
            build_model(model).train()(torch.empty(batch, 1, pixels, pixels))
        except (RuntimeError, ValueError) as error:  # whatever torch refuses
            raise ConfigError(
                f"{model.architecture} cannot train on batches of {batch} at train.input_size {pixels} "
                f"({str(error).splitlines()[0]}); use a larger train.batch_size or train.input_size"
            ) from error


def initial_weights(config: Config) -> Mapping[str, NDArray[Any]] | None:
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
