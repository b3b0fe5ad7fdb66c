"""How many jobs a cluster holds at once. Plain arithmetic, so that nothing has to be started to know.

Ray Train itself queues by starting a job, timing out and printing a traceback, again and again; so saltray starts a
job only when it fits, and queues the others itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from saltray.config import ClusterConfig
from saltray.errors import ResourceError

Node = Mapping[str, float]
"""Resources of one node by Ray's names: CPU, GPU."""


@dataclass(frozen=True)
class JobResources:
    """What one job, a fold or a trial, needs."""

    ranks: int
    cpus: float
    """Logical CPUs per rank."""
    gpus: float
    """GPUs per rank; a fraction shares one GPU with ranks of other jobs."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one rank, as Ray takes them."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    def ranks_on(self, node: Node) -> int:
        """How many ranks one node holds. A fraction of a GPU never spans two."""
        by_cpu = math.floor(node.get("CPU", 0) / self.cpus + 1e-6)
        if not self.gpus:
            return by_cpu
        per_gpu = math.floor(1 / self.gpus + 1e-6)
        return min(by_cpu, math.floor(node.get("GPU", 0)) * per_gpu)

    def __str__(self) -> str:
        device = f"{self.gpus:g} GPU and {self.cpus:g} CPU" if self.gpus else f"{self.cpus:g} CPU"
        return f"{self.ranks} rank{'s' * (self.ranks > 1)} of {device}"


@dataclass(frozen=True)
class Capacity:
    """How many jobs of one kind a cluster runs at once."""

    resources: JobResources
    concurrency: int
    """Jobs that may run at once."""
    ready: int
    """Jobs that fit on the nodes that are already up."""


def resources_per_job(
    cluster: ClusterConfig, present: Sequence[Node], possible: Sequence[Node], *, concurrency: int
) -> JobResources:
    """What a job needs; settings that are unset follow from what the cluster has.

    GPUs: one per rank where there are any. CPUs: one per rank beside a GPU; without GPUs a share of the cluster's CPUs,
    at most one, that lets `concurrency` jobs run at once.
    """
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in (*present, *possible)) else 0.0
    cpus = cluster.cpus_per_worker
    if cpus is None:
        ranks = concurrency * cluster.workers_per_fold
        share = max(sum(node.get("CPU", 0) for node in nodes) for nodes in (present, possible)) / ranks
        # Ray counts in ten-thousandths; rounding down to hundredths keeps the sum below what is there.
        cpus = 1.0 if gpus == 1 else min(1.0, max(0.01, math.floor(share * 100) / 100))
    return JobResources(cluster.workers_per_fold, cpus, gpus)


def jobs_that_fit(resources: JobResources, nodes: Sequence[Node]) -> int:
    """How many jobs fit on these nodes at once."""
    return sum(resources.ranks_on(node) for node in nodes) // resources.ranks


def capacity_of(
    cluster: ClusterConfig, present: Sequence[Node], possible: Sequence[Node], *, jobs: int, sharing: int
) -> Capacity:
    """How many jobs may run at once.

    Args:
        cluster: what a job's ranks ask for.
        present: the nodes of the cluster.
        possible: the nodes that it can grow to; the same where it cannot grow.
        jobs: how many there are to run.
        sharing: how many jobs the CPUs are divided among, where there are no GPUs.

    Raises:
        ResourceError: not even one job can ever run.
    """
    resources = resources_per_job(cluster, present, possible, concurrency=sharing)
    ready = jobs_that_fit(resources, present)
    most = max(ready, jobs_that_fit(resources, possible))
    if most == 0:
        cpus, gpus = (sum(node.get(kind, 0) for node in possible) for kind in ("CPU", "GPU"))
        short = {"--gpus-per-worker": replace(resources, cpus=1e-4), "--cpus-per-worker": replace(resources, gpus=0)}
        flags = [flag for flag, alone in short.items() if jobs_that_fit(alone, possible) == 0] or list(short)
        flags += ["--workers-per-fold"] * (resources.ranks > 1)
        raise ResourceError(
            f"a job needs {resources}, but the cluster has and can get at most {gpus:g} GPUs and {cpus:g} CPUs; "
            f"lower {' or '.join(flags)}"
        )
    return Capacity(resources, min(most, jobs), ready)
