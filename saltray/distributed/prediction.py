"""Tiles through an ensemble, streamed by Ray Data: names go in, one row per tile comes out.

At no time are more than a few batches of pixels in memory. A worker returns its fault with the batch: an exception
would reach the driver without its cause, and after many lines of Ray's.
"""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from saltray.data.names import tile_id
from saltray.data.rle import encode_rle
from saltray.data.tile_reader import TileReader
from saltray.distributed.address import joins_cluster
from saltray.distributed.capacity import Node
from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.nodes import nodes_possible, nodes_present
from saltray.distributed.ray_internals import remote_args_allowed
from saltray.ensemble.load import Ensemble
from saltray.errors import ConfigError, ResourceError, SaltrayError

BATCH = 64
"""Tiles per batch."""
CUDA_FULL = "CUDA out of memory"
"""Of torch's message where a GPU's memory is full."""
WRAPPED = "The above exception was the direct cause of"
"""What follows an exception of ours in the text of Ray Data's own."""
DEATHS = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)
IN_CONSTRUCTOR = "error raised in its creation task"
"""Of Ray's message of an actor that did not die, but whose constructor raised."""
FAULT = "fault"
"""Column with the pickled SaltrayError of a batch; empty where there is none."""


@dataclass(frozen=True)
class PredictionWorkers:
    """The actors that hold the models."""

    count: int
    device: Literal["GPU", "CPU"]


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

    Raises:
        ConfigError: more are asked for than the cluster can have GPUs.
    """
    cpus, ready = (_total(nodes_present(), kind) for kind in ("CPU", "GPU"))
    gpus = max(ready, _total(nodes_possible(), "GPU"))  # a cluster that starts from nothing adds a node for us
    count = min(asked or ready or (1 if gpus else max(cpus, 1)), -(-tiles // BATCH))
    if gpus and count > gpus:
        raise ConfigError(f"{count} workers need a GPU each, but the cluster has at most {gpus}; lower --workers")
    return PredictionWorkers(count, "GPU" if gpus else "CPU")


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
    # A copy: the caller's own data sets keep their settings.
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    on_gpu = workers.device == "GPU"
    blocks = -(-len(names) // BATCH)
    # On one machine, what killed an actor would kill it again; and Ray warns of restarts to no purpose.
    restarts: Any = {} if joins_cluster() else {"max_restarts": 0}
    with ray.data.DataContext.current(context), remote_args_allowed():
        rows = (
            ray.data.from_items([{"name": name} for name in names], override_num_blocks=blocks)
            .map_batches(
                _Decode(reader),
                batch_size=None,
                num_cpus=0.01,
                compute=ray.data.TaskPoolStrategy(size=min(2 * workers.count, blocks)),
            )
            .map_batches(
                _Predict,
                fn_constructor_args=(ensemble, "cuda" if on_gpu else "cpu", tta, keep_probabilities),
                batch_size=BATCH,
                compute=ray.data.ActorPoolStrategy(size=workers.count),
                num_gpus=1 if on_gpu else 0,
                num_cpus=0.9,  # the rest is for decoding
                **restarts,
            )
            .iter_batches(batch_size=BATCH, batch_format="numpy")
        )
    batch: Any
    for batch in _explain_failures(rows):
        if fault := _first_fault(batch):
            raise pickle.loads(fault)
        yield Batch(ids=list(batch["id"]), rles=list(batch["rle"]), probabilities=batch.get("probability"))


def _explain_failures(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows; what Ray raises instead is told in a line."""
    try:
        yield from rows
    except ray.exceptions.RayError as error:
        text = str(error)
        if isinstance(error, DEATHS) and IN_CONSTRUCTOR not in text:
            raise ResourceError(
                f"a worker was killed ({type(error).__name__}), probably because memory is short; give fewer "
                "--workers, or use a machine with more memory"
            ) from error
        cause = cause_in_a_line(text.rpartition(WRAPPED)[0] or text)
        remedy = "; use fewer --workers, or a larger GPU" if CUDA_FULL in cause else ""
        raise ResourceError(f"a worker failed: {cause}{remedy}") from error


class _Decode:
    """Names to pixels."""

    def __init__(self, reader: TileReader) -> None:
        self.reader = reader

    def __call__(self, batch: Any) -> dict[str, NDArray[Any]]:
        names, fault = [str(name) for name in batch["name"]], b""
        try:
            images = np.stack([self.reader.read(name) for name in names])
        except SaltrayError as error:
            images, fault = np.zeros((len(names), *self.reader.shape), np.uint8), pickle.dumps(error)
        return {"id": np.array([tile_id(name) for name in names]), "image": images, FAULT: _column(fault, len(names))}


class _Predict:
    """Pixels to masks; one actor holds all fold models."""

    def __init__(self, ensemble: str, device: str, tta: bool, keep_probabilities: bool) -> None:
        self.tta = tta
        self.keep_probabilities = keep_probabilities
        self.fault = b""
        try:
            self.ensemble = Ensemble.load(ensemble, device=device)
        except SaltrayError as error:
            self.fault = pickle.dumps(error)

    def __call__(self, batch: Any) -> dict[str, NDArray[Any]]:
        if fault := _first_fault(batch) or self.fault:
            probabilities = np.zeros(batch["image"].shape, np.float32)
            salt = probabilities > 0
        else:
            probabilities = self.ensemble.predict(batch["image"], tta=self.tta)
            salt = self.ensemble.manifest.postprocess.apply(probabilities, batch["image"])
        rles = np.array([encode_rle(mask) for mask in salt], dtype=object)
        out = {"id": batch["id"], "rle": rles, FAULT: _column(fault, len(rles))}
        if self.keep_probabilities:
            out["probability"] = probabilities.astype(np.float16)
        return out


def _column(fault: bytes, rows: int) -> NDArray[Any]:
    return np.array([fault] * rows, dtype=object)


def _first_fault(batch: Any) -> bytes:
    return next(filter(None, batch[FAULT]), b"")


def _total(nodes: Iterable[Node], kind: str) -> int:
    return int(sum(node.get(kind, 0) for node in nodes))
