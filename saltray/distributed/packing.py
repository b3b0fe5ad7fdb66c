"""A raw data set is decoded by all nodes of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from saltray.data.workers import TASKS_EACH, Mapper, bounded, map_on_cores
from saltray.distributed.address import joins_cluster
from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.nodes import nodes_present
from saltray.errors import ResourceError
from saltray.storage.base import Store

T = TypeVar("T")
R = TypeVar("R")
LEAST_AHEAD = 16
"""Tasks that are begun ahead even where the cluster has few CPUs yet, so that it knows what it lacks."""


def mapper_for(data: str, store: Store) -> Mapper:
    """Where to decode a data set: on all nodes, in a job of a cluster, if each of them reaches the files and the store.

    That is known of S3 alone; a folder may be on the node of the driver, which then decodes on its own cores.

    Args:
        data: URI of the data set.
        store: where it is to be packed.
    """
    return map_on_nodes if joins_cluster() and store.is_remote and data.startswith("s3://") else map_on_cores


def map_on_nodes(work: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
    """The results of tasks that run wherever the cluster has a CPU, in the order of the tasks.

    Args:
        work: can be pickled, and so can the tasks and the results.
        tasks: are taken as they are needed.

    Raises:
        ConfigError: there is no such cluster.
        ResourceError: a task was killed repeatedly.
        whatever `work` raises.
    """
    from saltray.distributed.cluster import ray_cluster

    with ray_cluster():
        import ray

        shared = ray.put(work)
        attempt: Any = ray.remote(num_cpus=1)(_attempt)
        cpus = sum(node.get("CPU", 0) for node in nodes_present())
        ahead = max(LEAST_AHEAD, TASKS_EACH * int(cpus))
        yield from bounded(lambda task: attempt.remote(shared, task), _result, tasks, ahead)


def _attempt(work: Callable[[T], R], task: T) -> tuple[Exception | None, R | None]:
    """An error as a value: Ray would wrap it in others."""
    try:
        return None, work(task)
    except Exception as error:
        return error, None


def _result(begun: Any) -> Any:
    import ray

    try:
        error, result = ray.get(begun)
    except ray.exceptions.RayError as fault:
        raise ResourceError(
            f"a task that decodes tiles failed: {cause_in_a_line(str(fault))}; run the same command again"
        ) from fault
    if error is not None:
        raise error
    return result
