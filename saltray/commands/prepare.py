"""What train, tune and range_test have in common: the inputs, read and checked once in the driver."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saltray.commands.root import open_root
from saltray.config import Config, ModelConfig
from saltray.data.folds import assign_folds, check_count
from saltray.data.packed import DatasetManifest, PackedDataset
from saltray.data.packing import DatasetSize, dataset_size, open_packed
from saltray.data.unlabelled import UnlabelledImages, find_unlabelled
from saltray.distributed.packing import mapper_for
from saltray.distributed.paths import check_kept
from saltray.ensemble.manifest import PseudoLabelsProvenance, WeightsProvenance
from saltray.errors import ConfigError, DataError
from saltray.progress import Observer
from saltray.runs.initial_weights import InitialWeights, Origins, check_unseen, read_initial_weights
from saltray.runs.pseudo_labels import Teacher, find_teacher
from saltray.storage.base import Store

if TYPE_CHECKING:
    from saltray.distributed.jobs import Job


@dataclass(frozen=True, eq=False)
class Prepared:
    """The inputs of a run or a search."""

    tiles: PackedDataset
    fold_of: NDArray[np.int64]
    """[N] fold of each tile."""
    initial: InitialWeights | None
    """The weights before training, where model.weights names some."""
    teacher: Teacher | None = None
    """The models that label test tiles, where pseudo_labels.ensemble names some."""
    test: UnlabelledImages | None = None
    """All test tiles, if there is a teacher."""
    pseudo_provenance: PseudoLabelsProvenance | None = None
    """Of the labels, if there is a teacher."""

    @property
    def dataset(self) -> DatasetManifest:
        """What the tiles are, and where they are from."""
        return self.tiles.manifest

    @property
    def initial_digest(self) -> str | None:
        """SHA-256, in hex, of the initial weights."""
        return None if self.initial is None else self.initial.digest

    @property
    def weights_provenance(self) -> WeightsProvenance | None:
        """Where the initial weights come from."""
        return None if self.initial is None else self.initial.provenance


def open_for_writing(uri: str) -> Store:
    """The store at a URI, proven to be writable.

    Raises:
        ConfigError: it cannot be a store, or not one for jobs of a cluster.
        StorageError: it cannot be reached or written.
    """
    check_kept("the store", uri)
    store = open_root(uri)
    store.check_writable()
    return store


def prepare(
    config: Config,
    store: Store,
    variants: Iterable[Config] = (),
    *,
    before: Origins | None = None,
    observer: Observer | None = None,
) -> Prepared:
    """Load the initial weights, pack the tiles into the store unless they are, and split them; no pixels are read then.

    Args:
        config: the run.
        store: where packed data sets are kept.
        variants: the configurations of a search's trials.
        before: what an earlier command of the same run or search used; the same versions of ensembles are taken again.
        observer: is told how many tiles are packed.

    Raises:
        DataError: the tiles cannot be used; all faults at once.
        ConfigError: the tiles do not fit the configuration or a variant, a model that training is to start from, or
            that is to label test tiles, was trained on tiles that its fold holds out, or there are no test tiles.
        ModelError: the initial weights cannot be read, or do not fit.
        StorageError: the data or the store cannot be reached.
    """
    variants = list(variants)
    with suppress(DataError):  # of one tile; what reads them all tells all faults
        check_inputs(config, store, variants)
    before = before or Origins()
    initial = read_initial_weights(config, before.weights)
    teacher = find_teacher(config, before.pseudo_labels)
    tiles = open_packed(config.data, store, observer, mapper_for(config.data, store))
    fold_of = assign_folds(tiles.index, config.folds)
    if initial is not None:
        check_unseen(initial.provenance, tiles.index, fold_of, tiles.manifest)
    if teacher is None:
        return Prepared(tiles, fold_of, initial)
    check_fits([teacher.manifest.config], tiles.manifest.height, tiles.manifest.width)
    test = find_unlabelled(config.data, store, tiles.manifest)
    labels = teacher.provenance(test.digest, config.pseudo_labels.count(len(test)))
    check_unseen(labels, tiles.index, fold_of, tiles.manifest)
    return Prepared(tiles, fold_of, initial, teacher, test, labels)


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
    check_fits((config, *variants), size.height, size.width)
    return size


def check_fits(configs: Iterable[Config], height: int, width: int) -> None:
    """Refuse tiles that do not fit the input of the networks, and batches that these cannot train on.

    Args:
        configs: the configuration of each.
        height: of the tiles, in pixels.
        width: of the tiles, in pixels.

    Raises:
        ConfigError: some do not.
    """
    checked = set()
    for each in configs:
        pixels, factor = each.train.input_size, each.train.resize
        needed = max(height, width) * factor
        if needed > pixels:
            enlarged = f", enlarged {factor} times by train.resize" * (factor > 1)
            raise ConfigError(
                f"the tiles have {height}x{width} pixels{enlarged}, but train.input_size is {pixels}; use "
                f"--train.input-size {each.model.fitting_size(needed)}, or smaller tiles"
            )
        ranks = each.cluster.workers_per_fold
        batch = each.train.batch_size // (1 if each.train.sync_batchnorm else ranks)
        if (shape := (each.model, pixels, batch)) not in checked:
            _check_network(*shape)
            checked.add(shape)


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


def share(prepared: Prepared, config: Config, parent: Store) -> "Job":
    """Put the inputs into Ray's object store, a shard at a time; returns a job that lacks its name and folds.

    Raises:
        IntegrityError: the packed tiles are damaged.
        StorageError: the store cannot be reached.
    """
    from saltray.distributed.jobs import Job
    from saltray.training.tile_pool import TilePart

    return Job.template(
        config,
        parent,
        tiles=(TilePart.create(shard.ids, shard.images, shard.mask_bits) for shard in prepared.tiles.shards()),
        fold_of=prepared.fold_of,
        initial_weights=() if prepared.initial is None else prepared.initial.by_fold,
        teacher=prepared.teacher,
        test=() if prepared.test is None else prepared.test.shards(),
        pseudo_labels=prepared.pseudo_provenance,
    )
