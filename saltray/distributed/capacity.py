"""How many jobs a cluster holds at once. Plain arithmetic, so that nothing has to be started to know.

Ray Train itself queues by starting a job, timing out and printing a traceback, each time; so saltray starts a
job only when it fits, and queues the others itself.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from saltray.config import ClusterConfig
from saltray.errors import ResourceError

Node = Mapping[str, float]
"""Resources of one node by Ray's names: CPU, GPU."""
_PARTS = 100
"""A CPU is shared in hundredths: Ray counts in ten-thousandths."""


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
    cluster: ClusterConfig, present: Sequence[Node], possible: Sequence[Node], *, jobs: int, least_cpus: float = 0
) -> JobResources:
    """What a job needs; settings that are unset follow from what the cluster has.

    GPUs: one per rank where there are any. CPUs: the most with which the ranks of `jobs` jobs still run at once, at
    least `least_cpus`; a whole number where that is 1 or more, and at most 1 beside a GPU, which does the work.
    """
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in (*present, *possible)) else 0.0
    cpus = cluster.cpus_per_worker
    if cpus is None:
        smallest = JobResources(cluster.workers_per_fold, 1 / _PARTS, gpus)
        share = max(_most_cpus(smallest, nodes, jobs * cluster.workers_per_fold) for nodes in (present, possible))
        cpus = max(share, least_cpus) or 1.0
    return JobResources(cluster.workers_per_fold, cpus, gpus)


def _most_cpus(smallest: JobResources, nodes: Sequence[Node], ranks: int) -> float:
    """The most CPUs a rank with which as many of `ranks` fit on these nodes as with those of `smallest`; 0 if none."""

    def fewer(parts: int) -> bool:
        resources = replace(smallest, cpus=parts / _PARTS)
        return sum(resources.ranks_on(node) for node in nodes) < wanted

    wanted = min(ranks, sum(smallest.ranks_on(node) for node in nodes))
    if not wanted:
        return 0
    limit = 1 if smallest.gpus else max((int(node.get("CPU", 0)) for node in nodes), default=0)
    parts = bisect_left(range(1, limit * _PARTS + 1), True, key=fewer)
    # A node has a whole number of CPUs, and torch a whole number of threads.
    return float(parts // _PARTS) if parts >= _PARTS else parts / _PARTS


def jobs_that_fit(resources: JobResources, nodes: Sequence[Node]) -> int:
    """How many jobs fit on these nodes at once."""
    return sum(resources.ranks_on(node) for node in nodes) // resources.ranks


def capacity_of(
    cluster: ClusterConfig, present: Sequence[Node], possible: Sequence[Node], *, jobs: int, least_cpus: float = 0
) -> Capacity:
    """How many jobs may run at once.

    Args:
        cluster: what a job's ranks ask for.
        present: the nodes of the cluster.
        possible: the nodes that it can grow to; the same where it cannot grow.
        jobs: how many there are to run; the CPUs are divided among them.
        least_cpus: CPUs that a rank gets at least, where they are divided: fewer jobs run at once then.

    Raises:
        ResourceError: not even one job can ever run.
    """
    resources = resources_per_job(cluster, present, possible, jobs=jobs, least_cpus=least_cpus)
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
