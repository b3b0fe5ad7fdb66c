"""How many folds a cluster holds at once. Plain arithmetic, so that nothing has to be started to know.

Ray Train itself queues by starting, timing out and printing a traceback, for ever; so saltray starts a fold only when
it fits, and keeps the others in line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saltray.config import ClusterConfig
from saltray.errors import ResourceError

Node = Mapping[str, float]
"""Resources of one machine by Ray's names: CPU, GPU."""


@dataclass(frozen=True)
class Demand:
    """What one fold takes."""

    ranks: int
    cpus: float
    """Logical CPUs a rank."""
    gpus: float
    """GPUs a rank; a fraction shares one GPU with ranks of other folds."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one rank, as Ray wants them."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    def ranks_on(self, node: Node) -> int:
        """How many ranks one machine holds. A fraction of a GPU never spans two."""
        by_cpu = math.floor(node.get("CPU", 0) / self.cpus + 1e-6)
        if not self.gpus:
            return by_cpu
        per_gpu = math.floor(1 / self.gpus + 1e-6)
        return min(by_cpu, math.floor(node.get("GPU", 0)) * per_gpu)

    def __str__(self) -> str:
        device = f"{self.gpus:g} GPU and {self.cpus:g} CPU" if self.gpus else f"{self.cpus:g} CPU"
        return f"{self.ranks} rank{'s' * (self.ranks > 1)} of {device}"


def demand_of(cluster: ClusterConfig, present: Sequence[Node], possible: Sequence[Node], *, at_once: int) -> Demand:
    """What a fold takes; settings that are left open follow from what the cluster has.

    GPUs: one a rank where there are any. CPUs: one a rank beside a GPU; without GPUs a share of the cluster's CPUs, at
    most one, that lets `at_once` folds run at once.
    """
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in (*present, *possible)) else 0.0
    cpus = cluster.cpus_per_worker
    if cpus is None:
        ranks = at_once * cluster.workers_per_fold
        share = max(sum(node.get("CPU", 0) for node in nodes) for nodes in (present, possible)) / ranks
        # Ray counts in ten-thousandths; rounding down to hundredths keeps the sum below what is there.
        cpus = 1.0 if gpus == 1 else min(1.0, max(0.01, math.floor(share * 100) / 100))
    return Demand(cluster.workers_per_fold, cpus, gpus)


def slots(demand: Demand, nodes: Sequence[Node]) -> int:
    """How many folds of this demand fit on these machines at once."""
    return sum(demand.ranks_on(node) for node in nodes) // demand.ranks


def admit(demand: Demand, folds: int, present: Sequence[Node], possible: Sequence[Node]) -> int:
    """How many folds may run at once.

    Args:
        demand: what one fold takes.
        folds: how many there are to train.
        present: the machines of the cluster.
        possible: the machines that it can grow to; the same where it cannot grow.

    Raises:
        ResourceError: not even one fold can ever run.
    """
    room = max(slots(demand, present), slots(demand, possible))
    if room == 0:
        cpus, gpus = (sum(node.get(kind, 0) for node in possible) for kind in ("CPU", "GPU"))
        remedy = "lower --gpus-per-worker or --workers-per-fold" if demand.gpus else "lower --cpus-per-worker"
        raise ResourceError(
            f"a fold needs {demand}, but the cluster has and can get at most {gpus:g} GPUs and {cpus:g} CPUs; {remedy}"
        )
    return min(room, folds)
