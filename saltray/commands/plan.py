"""`saltray plan`: what a run would take, and on what, before anything is started."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saltray.commands.prepare import check_inputs
from saltray.commands.root import open_root
from saltray.config import Config
from saltray.data.packing import DatasetSize
from saltray.data.unlabelled import list_unlabelled
from saltray.distributed.capacity import Capacity, JobResources, Node
from saltray.distributed.cluster_file import cluster_nodes
from saltray.distributed.paths import check_kept
from saltray.distributed.preflight import preflight
from saltray.errors import ConfigError, NotFoundError
from saltray.runs.history import epochs_of, read_history
from saltray.runs.initial_weights import read_initial_weights
from saltray.runs.layout import SPLIT, fold_folder
from saltray.runs.manifests import manifest_of
from saltray.runs.pseudo_labels import find_teacher
from saltray.runs.records import RunManifest, Split
from saltray.runs.run import find_run
from saltray.storage.base import Store
from saltray.storage.uri import local_path

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would take."""

    config: Config
    tiles: DatasetSize
    capacity: Capacity
    """What one fold needs, and how many train at once."""
    present: str
    """The nodes that are there, in words."""
    possible: str
    """The nodes that there can be, in words."""
    weights: int
    """Parameters and buffers of the network."""
    images_per_second: float | None
    """Images that one rank trains a second, where that is known."""
    speed_source: str
    """Where that number comes from."""
    pseudo: int = 0
    """Test tiles with pseudo-labels, which every fold trains on."""

    @property
    def resources(self) -> JobResources:
        """What one fold needs."""
        return self.capacity.resources

    @property
    def training_tiles(self) -> int:
        """Training tiles of the fold that has the most."""
        return self.tiles.count - self.tiles.count // self.config.folds.count + self.pseudo

    @property
    def steps(self) -> int:
        """Steps of an epoch in that fold."""
        return math.ceil(self.training_tiles / self.config.train.batch_size)

    @property
    def bytes_per_step(self) -> float:
        """Bytes of gradients that each rank sends per step in a ring all-reduce (https://arxiv.org/abs/1802.05799)."""
        return 2 * (self.resources.ranks - 1) / self.resources.ranks * FLOAT_BYTES * self.weights

    @property
    def checkpoint_bytes(self) -> int:
        """Weights, their moving average, and two moments of each in the optimizer."""
        return 4 * FLOAT_BYTES * self.weights

    @property
    def ensemble_bytes(self) -> int:
        """Weights of all folds and snapshots."""
        return self.config.folds.count * self.config.train.snapshots * FLOAT_BYTES * self.weights

    @property
    def fold_seconds(self) -> float | None:
        """Time that one fold trains."""
        if self.images_per_second is None:
            return None
        images = self.steps * self.config.train.batch_size * self.config.train.epochs
        return images / (self.images_per_second * self.resources.ranks)

    @property
    def rank_hours(self) -> float | None:
        """Hours of GPUs, or of ranks where there are no GPUs, of all folds together; of a shared GPU its share."""
        if self.fold_seconds is None:
            return None
        ranks = self.resources.ranks * (self.resources.gpus or 1)
        return self.config.folds.count * ranks * self.fold_seconds / 3600

    @property
    def hours(self) -> float | None:
        """Hours from the first step to the last, with as many folds at once as the cluster can hold."""
        if self.fold_seconds is None:
            return None
        return math.ceil(self.config.folds.count / self.capacity.concurrency) * self.fold_seconds / 3600


def plan(
    config: Config,
    *,
    on: str | os.PathLike[str] | None = None,
    images_per_second: float | None = None,
    like: str | None = None,
) -> RunPlan:
    """What `train` with this configuration would take. Nothing is started, packed or written.

    Args:
        config: the run.
        on: a cluster.yaml, whose nodes count as possible; else those of the cluster that this process belongs to, or
            this machine.
        images_per_second: images that one rank trains a second: what `train` prints for a fold, divided by its ranks.
        like: name of a run in the same store, whose measured speed, validation included, is used instead.

    Raises:
        ResourceError: not even one fold can ever run there, or torch cannot use a GPU of this machine or the cluster.
        ConfigError: the tiles do not fit the configuration, the speed is given twice or impossible, or the cluster.yaml
            cannot be read.
        DataError: there are no tiles.
        ModelError: the initial weights cannot be read, or do not fit.
        EnsembleError, IntegrityError: the ensemble that is to label test tiles is missing or damaged.
        NotFoundError: there is no such run, or it has no epoch yet.
        StorageError: the store cannot be reached.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise ConfigError(f"images_per_second is {images_per_second}; use a positive number")
    if images_per_second is not None and like is not None:
        raise ConfigError("the speed is given both by --images-per-second and by --like; keep one of them")
    check_kept("the store", config.store)
    store = open_root(config.store)
    speed, source = images_per_second, "as given"
    if like is not None:
        speed, source = _speed_of(store, like), f"as in run {like}"
    file = cluster_nodes(local_path(on)) if on is not None else []
    tiles = check_inputs(config, store)
    read_initial_weights(config)
    find_teacher(config)
    folds = config.folds.count
    machines = preflight(config.cluster, jobs=folds, planned=[node for _, node in file])
    present, possible = machines.present, machines.possible
    return RunPlan(
        config=config,
        tiles=tiles,
        pseudo=_pseudo(config, store),
        capacity=machines.capacity,
        present=f"{_total(present)} on {machines.where}" if present else machines.where,
        possible=_described(file) if file else _total(possible) if possible else "no more",
        weights=_weights(config),
        images_per_second=speed,
        speed_source=source,
    )


def _speed_of(store: Store, run: str) -> float:
    """Images a second of one rank of a run, validation included."""
    home = find_run(store, run)
    config = manifest_of(home, RunManifest).config
    count = config.folds.count
    epochs = [epoch for fold in range(count) for epoch in epochs_of(read_history(home.sub(fold_folder(fold))))]
    if not epochs:
        raise NotFoundError(f"run {run} of {store.uri} has no epoch yet; give --images-per-second")
    tiles = sum(row.tiles for row in home.get_record(SPLIT, Split).balance)
    trained = len(epochs) * tiles * (count - 1) / count
    return float(trained / sum(epoch.seconds for epoch in epochs) / config.cluster.workers_per_fold)


def _pseudo(config: Config, store: Store) -> int:
    """Test tiles with pseudo-labels; no image is read."""
    if config.pseudo_labels.ensemble is None:
        return 0
    _, entries = list_unlabelled(config.data, store)
    return config.pseudo_labels.count(len(entries))


def _weights(config: Config) -> int:
    """Parameters and buffers of the network, which is not built for it."""
    import torch

    from saltray.models.build import build_model

    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build_model(config.model).state_dict().values())


def _described(file: Sequence[tuple[str, Node]]) -> str:
    counts = Counter(name for name, node in file if node.get("CPU", 0) or node.get("GPU", 0))
    return f"{_total([node for _, node in file])} ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def _total(nodes: Sequence[Node]) -> str:
    gpus, cpus = (count_text(sum(node.get(kind, 0) for node in nodes), kind) for kind in ("GPU", "CPU"))
    return f"{gpus} and {cpus}"


def count_text(number: float, kind: str) -> str:
    """`2 GPUs`, `1 CPU`."""
    return f"{number:g} {kind}{'s' * (number != 1)}"
