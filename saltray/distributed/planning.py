"""`saltray plan`: what a run would take, and on what, before anything is started."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saltray.config import Config
from saltray.data.folds import check_count
from saltray.data.packing import DatasetSize, dataset_size
from saltray.distributed.admission import Demand, Node, admit, demand_of, slots
from saltray.distributed.cluster_file import machines
from saltray.distributed.history import read_history
from saltray.distributed.run_records import find_run
from saltray.distributed.runtime import joins_cluster, nodes_possible, nodes_present, ray_cluster
from saltray.errors import ConfigError, NotFoundError
from saltray.storage.base import Store
from saltray.storage.names import open_store

FLOAT = 4
"""Bytes of a weight."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would take."""

    config: Config
    tiles: DatasetSize
    demand: Demand
    """What one fold takes."""
    present: str
    """The machines that are there, in words."""
    possible: str
    """The machines that there can be, in words."""
    room: int
    """Folds that fit on the machines that are there."""
    at_once: int
    """Folds that train at once."""
    weights: int
    """Parameters and buffers of the network."""
    pace: float | None
    """Images a second that one rank trains, if it is known."""
    pace_from: str
    """Where the pace comes from."""

    @property
    def training_tiles(self) -> int:
        """Training tiles of the fold that has the most."""
        return self.tiles.count - self.tiles.count // self.config.folds.count

    @property
    def steps(self) -> int:
        """Steps of an epoch in that fold."""
        return math.ceil(self.training_tiles / self.config.train.batch_size)

    @property
    def checkpoint_bytes(self) -> int:
        """Weights, their moving average, and two moments of each in the optimiser."""
        return 4 * FLOAT * self.weights

    @property
    def fold_seconds(self) -> float | None:
        """Time that one fold trains."""
        if self.pace is None:
            return None
        images = self.steps * self.config.train.batch_size * self.config.train.epochs
        return images / (self.pace * self.demand.ranks)

    @property
    def rank_hours(self) -> float | None:
        """Hours of GPUs, or of ranks where there are no GPUs, of all folds together; of a shared GPU its share."""
        if self.fold_seconds is None:
            return None
        return self.config.folds.count * self.demand.ranks * (self.demand.gpus or 1) * self.fold_seconds / 3600

    @property
    def hours(self) -> float | None:
        """Hours from the first step to the last, with as many folds at once as there can be."""
        if self.fold_seconds is None:
            return None
        return math.ceil(self.config.folds.count / self.at_once) * self.fold_seconds / 3600

    def rows(self, price: float | None = None) -> list[tuple[str, str]]:
        """Label and value of each line of the plan.

        Args:
            price: of a GPU for an hour.

        Raises:
            ConfigError: the price is impossible.
        """
        if price is not None and not 0 <= price < math.inf:
            raise ConfigError(f"the price is {price}; use 0 or more")
        config, demand, ranks = self.config, self.demand, self.demand.ranks
        folds, train = config.folds.count, config.train
        pairs = f"{folds} folds x {ranks} rank{'s' * (ranks > 1)}"
        rows = [
            ("run", f"{config.run}: {pairs}, {train.epochs} epochs of {config.model.architecture}"),
            ("tiles", f"{self.tiles.count} of {self.tiles.height}x{self.tiles.width}, padded to {train.input_size}"),
            ("an epoch", f"up to {self.steps} steps of {train.batch_size} tiles, {train.batch_size // ranks} a rank"),
            ("wanted", f"{_devices(demand, folds)} for all folds at once, {_devices(demand, 1)} a fold"),
            ("present", f"{self.present}: {_at_once(self.room, folds)}"),
            ("possible", f"{self.possible}: {_at_once(self.at_once, folds)}"),
            ("to each machine", f"{_bytes(self.tiles.packed_bytes)} of tiles"),
        ]
        if ranks > 1:
            # A ring: https://arxiv.org/abs/1802.05799
            sent = 2 * (ranks - 1) / ranks * FLOAT * self.weights
            seconds = f"{sent * 8 / 10e9:.2g} s at 10 Gbit/s"
            rows.append(("each rank sends", f"{_bytes(sent)} of gradients a step: {seconds}, unless a step is longer"))
        kept = f"at most one in {train.checkpoint_every:g} s, the last 2 are kept"
        rows += [
            ("a checkpoint", f"{_bytes(self.checkpoint_bytes)} a fold, {kept}"),
            ("the ensemble", f"{_bytes(folds * FLOAT * self.weights)}"),
        ]
        return rows + self._cost(price)

    def _cost(self, price: float | None) -> list[tuple[str, str]]:
        if self.rank_hours is None or self.hours is None:
            return [("hours and cost", "unknown; give --images-per-second of one GPU, or --like a run of this store")]
        unit = "GPU" if self.demand.gpus else "rank"
        rows = [
            (f"{unit}-hours", f"{self.rank_hours:.3g} at {self.pace:.0f} images/s a {unit}, {self.pace_from}"),
            ("time", f"{_span(self.hours)} with {_at_once(self.at_once, self.config.folds.count)}, start-up left out"),
        ]
        if price is not None:
            cost = f"{self.rank_hours * price:.2f} at {price:g} a {unit}-hour"
            rows.append(("cost", f"{cost}, without start-up, idle machines and the head"))
        return rows


def plan(
    config: Config, *, on: str | Path | None = None, images_per_second: float | None = None, like: str | None = None
) -> RunPlan:
    """What `train` with this configuration would take. Nothing is started, packed or written.

    Args:
        config: the run.
        on: a cluster.yaml, whose machines count as possible; else those of the cluster that this process belongs to,
            or this machine.
        images_per_second: images that one rank trains a second: what `train` prints for a fold, divided by its ranks.
        like: name of a run in the same store, whose measured pace, validation included, is taken instead.

    Raises:
        ResourceError: not even one fold can ever run there.
        ConfigError: the pace is given twice or impossible, or the cluster.yaml cannot be read.
        DataError: there are no tiles.
        NotFoundError: there is no such run, or it has no epoch yet.
        StorageError: the store cannot be reached.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise ConfigError(f"images per second are {images_per_second}; use a positive number")
    if images_per_second is not None and like is not None:
        raise ConfigError("the pace is given both by --images-per-second and by --like; leave one of them out")
    store = open_store(config.store)
    pace, source = images_per_second, "as given"
    if like is not None:
        pace, source = _pace_of(store, like), f"as in run {like}"
    tiles = dataset_size(config.data, store)
    check_count(config.folds, tiles.count)
    present, here = _present(connected=on is None or joins_cluster())
    file = machines(Path(on)) if on is not None else []
    possible = [node for _, node in file] or nodes_possible()
    demand = demand_of(config.cluster, present, possible or present, at_once=config.folds.count)
    at_once = admit(demand, config.folds.count, present, possible or present)
    return RunPlan(
        config=config,
        tiles=tiles,
        demand=demand,
        present=here,
        possible=_machines(file) if file else _sum(possible) if possible else "no more",
        room=min(config.folds.count, slots(demand, present)),
        at_once=at_once,
        weights=_weights(config),
        pace=pace,
        pace_from=source,
    )


def _present(*, connected: bool) -> tuple[Sequence[Node], str]:
    """The machines that are there, and how to call them."""
    if not connected:
        return [], "no cluster is connected"
    if joins_cluster():
        with ray_cluster() as where:
            nodes = nodes_present()
        return nodes, f"{_sum(nodes)} on {where}"
    import torch

    mine = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    return [mine], f"{_sum([mine])} on this machine"


def _pace_of(store: Store, run: str) -> float:
    """Images a second of one rank of a run, validation included."""
    home = find_run(store, run)
    config = home.get_json("manifest.json")["config"]
    epochs = [epoch for fold in home.folders() if fold.startswith("fold-") for epoch in read_history(home.sub(fold))]
    if not epochs:
        raise NotFoundError(f"run {run} of {store.uri} has no epoch yet; give --images-per-second")
    count = config["folds"]["count"]
    tiles = sum(row["tiles"] for row in home.get_json("folds.json")["balance"])
    trained = len(epochs) * tiles * (count - 1) / count
    return float(trained / sum(epoch["seconds"] for epoch in epochs) / config["cluster"]["workers_per_fold"])


def _weights(config: Config) -> int:
    """Parameters and buffers of the network, which is not built for it."""
    import torch

    from saltray.models.build import build_model

    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build_model(config.model).state_dict().values())


def _devices(demand: Demand, folds: int) -> str:
    ranks = folds * demand.ranks
    cpus = _count(ranks * demand.cpus, "CPU")
    return f"{_count(ranks * demand.gpus, 'GPU')} and {cpus}" if demand.gpus else cpus


def _sum(nodes: Sequence[Node]) -> str:
    gpus, cpus = (_count(sum(node.get(kind, 0) for node in nodes), kind) for kind in ("GPU", "CPU"))
    return f"{gpus} and {cpus}"


def _count(number: float, kind: str) -> str:
    return f"{number:g} {kind}{'s' * (number != 1)}"


def _machines(file: Sequence[tuple[str, Node]]) -> str:
    counts = Counter(name for name, node in file if node.get("CPU", 0) or node.get("GPU", 0))
    return f"{_sum([node for _, node in file])} ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def _at_once(count: int, folds: int) -> str:
    return f"{count} of {folds} folds at once"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _span(hours: float) -> str:
    minutes = hours * 60
    return f"{hours:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 2 else f"{minutes * 60:.0f} s"
