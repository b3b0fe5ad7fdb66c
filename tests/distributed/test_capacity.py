"""How many jobs a cluster holds: worked by hand."""

import pytest

from saltray.config import ClusterConfig
from saltray.distributed.capacity import (
    Capacity,
    JobResources,
    Node,
    capacity_of,
    jobs_that_fit,
    resources_per_job,
)
from saltray.errors import ResourceError

LAPTOP: list[Node] = [{"CPU": 2.0}]
BOX: list[Node] = [{"CPU": 16.0, "GPU": 1.0}]
RACK: list[Node] = [{"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0}]
MIXED: list[Node] = [{"CPU": 8.0}, {"CPU": 4.0}, {"CPU": 0.0}]
HEAD: list[Node] = [{"CPU": 0.0}]
GROWN: list[Node] = [{"CPU": 64.0, "GPU": 8.0}]


@pytest.mark.parametrize(
    ("resources", "nodes", "jobs"),
    [
        (JobResources(1, 1, 0), LAPTOP, 2),
        (JobResources(2, 1, 0), LAPTOP, 1),
        (JobResources(1, 0.4, 0), LAPTOP, 5),
        (JobResources(1, 0.41, 0), LAPTOP, 4),
        (JobResources(1, 1, 1), BOX, 1),
        (JobResources(1, 1, 0.2), BOX, 5),
        (JobResources(1, 1, 0.3), BOX, 3),
        (JobResources(1, 4, 0.2), BOX, 4),
        (JobResources(2, 1, 1), RACK, 4),
        (JobResources(3, 1, 1), RACK, 2),
        (JobResources(8, 1, 1), RACK, 1),
        (JobResources(9, 1, 1), RACK, 0),
        # 0.6 of a GPU: one rank a GPU, whatever is left of it.
        (JobResources(1, 1, 0.6), RACK, 8),
        (JobResources(1, 0.1, 0), [], 0),
    ],
)
def test_jobs_that_fit(resources: JobResources, nodes: list[Node], jobs: int) -> None:
    assert jobs_that_fit(resources, nodes) == jobs


@pytest.mark.parametrize(
    ("cluster", "present", "possible", "jobs", "resources"),
    [
        (ClusterConfig(), LAPTOP, LAPTOP, 5, JobResources(1, 0.4, 0)),
        (ClusterConfig(workers_per_fold=2), LAPTOP, LAPTOP, 5, JobResources(2, 0.2, 0)),
        (ClusterConfig(), BOX, BOX, 5, JobResources(1, 1, 1)),
        (ClusterConfig(gpus_per_worker=0), BOX, BOX, 2, JobResources(1, 8, 0)),
        (ClusterConfig(), [{"CPU": 64.0}], [{"CPU": 64.0}], 5, JobResources(1, 12, 0)),
        (ClusterConfig(), LAPTOP, LAPTOP, 1, JobResources(1, 2, 0)),
        # 12 CPUs on nodes of 8 and 4: three ranks of 4 fit, four ranks of 3 do not.
        (ClusterConfig(), MIXED, MIXED, 3, JobResources(1, 4, 0)),
        (ClusterConfig(), MIXED, MIXED, 4, JobResources(1, 2, 0)),
        (ClusterConfig(workers_per_fold=2), MIXED, MIXED, 2, JobResources(2, 2, 0)),
        (ClusterConfig(), [{"CPU": 1.0}] * 2, [], 3, JobResources(1, 0.5, 0)),
        # More GPUs than CPUs: no GPU stays idle for want of a CPU.
        (ClusterConfig(), [{"CPU": 4.0, "GPU": 8.0}], [], 8, JobResources(1, 0.5, 1)),
        (ClusterConfig(gpus_per_worker=0.25), BOX, BOX, 5, JobResources(1, 1, 0.25)),
        (ClusterConfig(cpus_per_worker=3, gpus_per_worker=0.5), BOX, BOX, 5, JobResources(1, 3, 0.5)),
        # A rank takes no less than a hundredth of a CPU.
        (ClusterConfig(), LAPTOP, LAPTOP, 300, JobResources(1, 0.01, 0)),
        # A head node without GPUs that may start nodes with some.
        (ClusterConfig(), HEAD, GROWN, 5, JobResources(1, 1, 1)),
    ],
)
def test_unset_resources_follow_from_the_cluster(
    cluster: ClusterConfig, present: list[Node], possible: list[Node], jobs: int, resources: JobResources
) -> None:
    assert resources_per_job(cluster, present, possible, jobs=jobs) == resources


def test_as_many_jobs_at_once_as_share_the_cpus() -> None:
    pairs = ClusterConfig(workers_per_fold=2)
    assert capacity_of(pairs, LAPTOP, LAPTOP, jobs=5) == Capacity(JobResources(2, 0.2, 0), 5, ready=5)


def test_a_trial_has_no_less_than_a_cpu() -> None:
    assert capacity_of(ClusterConfig(), LAPTOP, LAPTOP, jobs=20, least_cpus=1) == Capacity(JobResources(1, 1, 0), 2, 2)
    assert capacity_of(ClusterConfig(), LAPTOP, LAPTOP, jobs=1, least_cpus=1) == Capacity(JobResources(1, 2, 0), 1, 1)


@pytest.mark.parametrize(("ranks", "concurrency"), [(1, 5), (2, 4)])
def test_a_cluster_that_can_grow_is_counted_at_its_largest(ranks: int, concurrency: int) -> None:
    cluster = ClusterConfig(workers_per_fold=ranks)
    capacity = capacity_of(cluster, HEAD, GROWN, jobs=5)
    assert capacity == Capacity(JobResources(ranks, 1, 1), concurrency, ready=0)


@pytest.mark.parametrize(
    ("cluster", "nodes", "needs", "has", "remedy"),
    [
        (
            ClusterConfig(workers_per_fold=2),
            BOX,
            "2 ranks of 1 GPU and 1 CPU",
            "1 GPUs and 16 CPUs",
            "--gpus-per-worker or --workers-per-fold",
        ),
        (
            ClusterConfig(cpus_per_worker=20),
            BOX,
            "1 rank of 1 GPU and 20 CPU",
            "1 GPUs and 16 CPUs",
            "--cpus-per-worker",
        ),
        (ClusterConfig(cpus_per_worker=3), LAPTOP, "1 rank of 3 CPU", "0 GPUs and 2 CPUs", "--cpus-per-worker"),
    ],
)
def test_a_job_that_can_never_run_is_refused(
    cluster: ClusterConfig, nodes: list[Node], needs: str, has: str, remedy: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        capacity_of(cluster, nodes, nodes, jobs=5)
    assert str(caught.value) == f"a job needs {needs}, but the cluster has and can get at most {has}; lower {remedy}"


def test_the_resources_of_a_rank_for_ray() -> None:
    assert JobResources(2, 0.5, 0).bundle == {"CPU": 0.5}
    assert JobResources(2, 1, 0.25).bundle == {"CPU": 1, "GPU": 0.25}
