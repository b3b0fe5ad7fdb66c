"""Tiles through an ensemble: actors take batches of names and return masks, in the order of the names.

An actor reads and decodes the next batch while it predicts one. At no time are more than a few batches a worker in
memory. A worker returns its fault as a value: an exception would reach the driver without its type.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray

from saltray.data.names import tile_id
from saltray.data.raw import shared_source
from saltray.data.rle import encode_rle
from saltray.data.tile_reader import TileReader
from saltray.distributed.address import joins_cluster
from saltray.distributed.capacity import Node
from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.nodes import nodes_possible, nodes_present
from saltray.ensemble.load import Ensemble
from saltray.errors import ConfigError, ResourceError, SaltrayError
from saltray.training.host_memory import keep_freed_memory

Device = Literal["GPU", "CPU"]

BATCH = {"CPU": 32, "GPU": 128}
"""Tiles per batch, by device: a CPU takes seconds for more, in which the others would wait for the last."""
AHEAD = {"CPU": 2, "GPU": 4}
"""Batches that a worker has at a time: one is predicted, the others are read or written."""
RESTARTS = 10
"""Of a worker whose node is lost, on a cluster."""
CUDA_FULL = "CUDA out of memory"
"""Of torch's message where a GPU's memory is full."""
DEATHS = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)
IN_CONSTRUCTOR = "error raised in its creation task"
"""Of Ray's message of an actor that did not die, but whose constructor raised."""


@dataclass(frozen=True)
class PredictionWorkers:
    """The actors that hold the models."""

    count: int
    device: Device
    threads: int = 1
    """CPUs of each, and threads of its arithmetic."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Predictions of some tiles."""

    ids: list[str]
    rles: list[str]
    """Run-length encoded masks; empty for tiles without salt."""
    probabilities: NDArray[np.float16] | None
    """[B, H, W], where they were asked for."""


def choose_workers(asked: int | None, tiles: int) -> PredictionWorkers:
    """One worker per GPU where there are any, else one per CPU, and no more than there are batches.

    Fewer workers than CPUs share them out.

    Raises:
        ConfigError: more are asked for than the cluster can have GPUs.
    """
    present = nodes_present()
    cpus, ready = (_total(present, kind) for kind in ("CPU", "GPU"))
    gpus = max(ready, _total(nodes_possible(), "GPU"))  # a cluster that starts from nothing adds a node for us
    device: Device = "GPU" if gpus else "CPU"
    count = min(asked or ready or (1 if gpus else max(cpus, 1)), -(-tiles // BATCH[device]))
    if gpus and count > gpus:
        raise ConfigError(f"{count} workers need a GPU each, but the cluster has at most {gpus}; lower --workers")
    return PredictionWorkers(count, device, 1 if gpus else _threads(count, present))


def _threads(workers: int, nodes: Sequence[Node]) -> int:
    """The most CPUs that so many workers can have each; a worker is on one node."""
    sizes = [int(node.get("CPU", 0)) for node in nodes]
    fitting = (n for n in range(max(sizes, default=1), 1, -1) if sum(size // n for size in sizes) >= workers)
    return next(fitting, 1)


def stream_predictions(
    ensemble: str,
    reader: TileReader,
    names: list[str],
    *,
    tta: bool,
    keep_probabilities: bool,
    workers: PredictionWorkers,
) -> Iterator[Batch]:
    """Predict the named images, in their order.

    Args:
        ensemble: URI of one version.
        reader: of the data set's images; its URI is absolute, as Ray's workers have working directories of their own.
        names: of the images.
        tta: average over each tile and its mirror image.
        keep_probabilities: whether to return them, too.
        workers: the actors that hold the models.

    Raises:
        ResourceError: a worker was killed.
        SaltrayError: a worker met it.
    """
    size, ahead = BATCH[workers.device], AHEAD[workers.device]
    on_gpu = workers.device == "GPU"
    # On one machine, what killed an actor would kill it again.
    restarts = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS} if joins_cluster() else {"max_restarts": 0}
    options: dict[str, Any] = {
        "num_gpus": 1 if on_gpu else 0,
        "num_cpus": 0.9 if on_gpu else workers.threads,
        "max_concurrency": ahead,
        **restarts,
    }
    arguments = ensemble, reader, "cuda" if on_gpu else "cpu", workers.threads, tta, keep_probabilities
    actors: list[Any] = [ray.remote(Worker).options(**options).remote(*arguments) for _ in range(workers.count)]
    try:
        yield from _in_order(actors, [names[at : at + size] for at in range(0, len(names), size)], ahead)
    except ray.exceptions.RayError as error:
        raise _explained(error) from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _in_order(actors: Sequence[Any], batches: Sequence[list[str]], ahead: int) -> Iterator[Batch]:
    """The predictions of the batches, in their order; an actor gets its first when it has its models."""
    calls: dict[Any, tuple[Any, int | None]] = {actor.ready.remote(): (actor, None) for actor in actors}
    free: deque[Any] = deque()
    done: dict[int, Batch] = {}
    given = shown = 0
    while shown < len(batches):
        # One slow batch does not let the others fill the memory.
        while free and given < min(len(batches), shown + 2 * ahead * len(actors)):
            actor = free.popleft()
            calls[actor.predict.remote(batches[given])] = actor, given
            given += 1
        for call in ray.wait(list(calls))[0]:
            actor, number = calls.pop(call)
            result = ray.get(call)
            if isinstance(result, SaltrayError):
                raise result
            if number is None:
                free.extend([actor] * ahead)
            else:
                free.append(actor)
                done[number] = result
        while shown in done:
            yield done.pop(shown)
            shown += 1


def _explained(error: ray.exceptions.RayError) -> ResourceError:
    """What Ray raises, in a line."""
    text = str(error)
    if isinstance(error, DEATHS) and IN_CONSTRUCTOR not in text:
        return ResourceError(
            f"a worker was killed ({type(error).__name__}), probably because memory is short; give fewer "
            "--workers, or use a machine with more memory"
        )
    cause = cause_in_a_line(text)
    remedy = "; use fewer --workers, or a larger GPU" if CUDA_FULL in cause else ""
    return ResourceError(f"a worker failed: {cause}{remedy}")


class Worker:
    """An actor that holds all models. Each of its threads handles a batch; one at a time predicts."""

    def __init__(
        self, ensemble: str, reader: TileReader, device: str, threads: int, tta: bool, keep_probabilities: bool
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        if device == "cpu":
            keep_freed_memory()
        self.reader = reader
        self.tta = tta
        self.keep_probabilities = keep_probabilities
        self.predicting = threading.Lock()
        self.fault: SaltrayError | None = None
        try:
            self.pool = ThreadPoolExecutor(shared_source(reader.uri).threads)
            self.ensemble = Ensemble.load(ensemble, device=device)
        except SaltrayError as error:
            self.fault = error

    def ready(self) -> SaltrayError | None:
        """What hinders it from predicting."""
        return self.fault

    def predict(self, names: list[str]) -> Batch | SaltrayError:
        """Predict the named images."""
        try:
            images = np.stack(list(self.pool.map(self.reader.read, names)))
        except SaltrayError as error:
            return error
        with self.predicting:
            probabilities = self.ensemble.predict(images, tta=self.tta)
        salt = self.ensemble.manifest.postprocess.apply(probabilities, images)
        return Batch(
            ids=[tile_id(name) for name in names],
            rles=[encode_rle(mask) for mask in salt],
            probabilities=probabilities.astype(np.float16) if self.keep_probabilities else None,
        )


def _total(nodes: Iterable[Node], kind: str) -> int:
    return int(sum(node.get(kind, 0) for node in nodes))
