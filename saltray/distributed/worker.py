"""What each rank of a fold runs: set up, resume, loop, report, and in the end weights and out-of-fold predictions."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from numpy.typing import NDArray
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors.torch import save_file

from saltray.config import Config
from saltray.data import Tiles
from saltray.distributed import checkpoints
from saltray.distributed.history import History
from saltray.distributed.run import OOF, RESULT, WEIGHTS
from saltray.ensemble import FoldResult
from saltray.errors import ConfigError, DivergedError, ModelError
from saltray.storage import Store
from saltray.training import Counts, FitState, Ranks, TileTensors, fit, initial_model, predict, resolve_precision


@dataclass(frozen=True)
class FoldJob:
    """All that a rank needs to know; no secret in it, for Ray's dashboard shows it."""

    config: Config
    fold: int
    tiles: "ray.ObjectRef[Tiles]"
    """All tiles, once a node in Ray's object store."""
    fold_of: NDArray[np.int64]
    """[N] fold of each tile."""
    run: Store
    """The run's part of the store; it travels as a URI."""
    initial: "ray.ObjectRef[dict[str, NDArray[Any]]] | None" = None
    """The network's weights before training, where some were given."""


@dataclass(frozen=True)
class Stopped:
    """A fold that ended by a fault which would come again, so that Ray must not retry it."""

    reason: str


def run(loop_config: dict[str, Any]) -> FoldResult | Stopped | None:
    """Train one fold; Ray Train calls this on every rank and hands back what rank 0 returns."""
    job: FoldJob = loop_config["job"]
    ranks = Ranks(
        rank=ray.train.get_context().get_world_rank(),
        size=ray.train.get_context().get_world_size(),
        device=ray.train.torch.get_device(),
    )
    if ranks.device.type == "cpu":
        # More threads than the rank's own share make ranks on shared cores wait for each other.
        torch.set_num_threads(max(1, int(job.config.cluster.cpus_per_worker or 1)))
    try:
        return _train(job, ranks)
    except (DivergedError, ModelError, ConfigError) as error:
        # Raised on all ranks alike, and again on every retry.
        return Stopped(str(error))


def _train(job: FoldJob, ranks: Ranks) -> FoldResult | None:
    store = job.run.sub(f"fold-{job.fold}")
    _check_shared(job.run, ranks)
    tiles: Tiles = ray.get(job.tiles)
    held_out = tiles.select(np.flatnonzero(job.fold_of == job.fold))
    train = TileTensors.create(tiles.select(np.flatnonzero(job.fold_of != job.fold)), ranks.device)
    valid = TileTensors.create(held_out, ranks.device)

    model = initial_model(job.config)
    if job.initial is not None:
        model.load_state_dict({name: torch.tensor(array) for name, array in ray.get(job.initial).items()})
    state = FitState.create(job.config, ranks, model)
    lines, notes = _resume(state, store, ranks)
    asked = job.config.train.precision
    if (precision := resolve_precision(asked, ranks.device)) != asked:
        notes.append(f"computes in {precision}: this {ranks.device.type} has no {asked} arithmetic")

    reporter = _Reporter(job, state)
    with _history(store, lines, notes, ranks) as history:
        for metrics in fit(state, train, valid, job.config, ranks):
            if history is not None:
                history.append(asdict(metrics))
            reporter.report(asdict(metrics), history)
        records = history.epochs if history is not None else []

    probabilities = _out_of_fold(state, valid, job.config, ranks)
    if ranks.rank != 0:
        return None
    assert probabilities is not None
    return _finish(job, store, state, held_out, probabilities, records)


def _check_shared(run: Store, ranks: Ranks) -> None:
    """Raise ConfigError, on all ranks alike, unless each of them sees the driver's store."""
    blind = ranks.sum(torch.tensor(float(not run.exists("manifest.json")), device=ranks.device))
    if blind > 0:
        raise ConfigError(
            f"{run.uri} is not the same folder on every node: {int(blind)} of {ranks.size} ranks do not see the run "
            "in it; use s3://, or a folder that all nodes share"
        )


def _resume(state: FitState, store: Store, ranks: Ranks) -> tuple[list[dict[str, Any]], list[str]]:
    """Load the newest whole checkpoint of the fold, if there is one; rank 0 says which.

    Returns:
        the history up to it, and what to note.
    """
    key, kept, notes = None, None, list[str]()
    lines: list[dict[str, Any]] = []
    if ranks.rank == 0:
        key, kept, notes = checkpoints.newest(store)
    key = _agree(key, ranks)
    if key is not None:
        state.load_state_dict(kept if kept is not None else checkpoints.load(store, key))
        notes.append(f"goes on after epoch {state.epoch}, from its last checkpoint")
        lines = store.get_json(f"{key}/manifest.json")["history"]
    return lines, notes


def _agree(value: str | None, ranks: Ranks) -> str | None:
    """Rank 0's value, on every rank."""
    if ranks.size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=ranks.device)
    return box[0]


@contextmanager
def _history(store: Store, lines: list[dict[str, Any]], notes: list[str], ranks: Ranks) -> Iterator[History | None]:
    """Rank 0's history, going on after `lines`, with what there is to note."""
    if ranks.rank != 0:
        yield None
        return
    with History(store, lines) as history:
        for note in notes:
            history.note(note)
        yield history


class _Reporter:
    """Reports each epoch to Ray; rank 0, which keeps the history, adds a checkpoint when the last one is old enough."""

    def __init__(self, job: FoldJob, state: FitState) -> None:
        self.job = job
        self.state = state
        self.saved = time.monotonic()
        self.upload: checkpoints.Upload | None = None

    def report(self, record: dict[str, Any], history: History | None) -> None:
        checkpoint = None
        if history is not None and self._due():
            self.saved = time.monotonic()
            checkpoint = Checkpoint(tempfile.mkdtemp(prefix="saltray-"))
            kept = checkpoints.detach(self.state.state_dict())
            self.upload = checkpoints.Upload(
                self.job.run, self.job.fold, self.state.epoch, kept, tuple(history.records)
            )
        ray.train.report(
            record,
            checkpoint=checkpoint,
            checkpoint_dir_name=checkpoints.name_of(self.state.epoch),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self.upload,
        )

    def _due(self) -> bool:
        # After the last epoch the fold's weights are written themselves. A slow store delays the next checkpoint, for
        # each one in line would hold a copy of the whole state.
        train = self.job.config.train
        old = time.monotonic() - self.saved >= train.checkpoint_every
        return old and self.state.epoch < train.epochs and (self.upload is None or self.upload.done.is_set())


def _out_of_fold(state: FitState, valid: TileTensors, config: Config, ranks: Ranks) -> NDArray[np.float16] | None:
    """Probabilities of the held-out tiles, [N, H, W], on rank 0; each rank predicts every size-th tile."""
    mine = predict(
        state.ema,
        valid.images[ranks.rank :: ranks.size],
        input_size=config.train.input_size,
        batch_size=config.train.batch_size,
        precision=config.train.precision,
        tta=True,
    )
    part = mine.numpy().astype(np.float16)
    if ranks.size == 1:
        return part
    parts: list[Any] | None = [None] * ranks.size if ranks.rank == 0 else None
    torch.distributed.gather_object(part, parts)
    if parts is None:
        return None
    whole = np.empty(tuple(valid.images.shape), dtype=np.float16)
    for rank, rows in enumerate(parts):
        whole[rank :: ranks.size] = rows
    return whole


def _finish(
    job: FoldJob,
    store: Store,
    state: FitState,
    held_out: Tiles,
    probabilities: NDArray[np.float16],
    records: list[dict[str, Any]],
) -> FoldResult:
    """Write weights and out-of-fold predictions, then the result that says the fold is done."""
    assert held_out.masks is not None
    counts = Counts.of(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(held_out.masks), 0.5)
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, WEIGHTS)
        save_file({key: value.contiguous().cpu() for key, value in state.ema.state_dict().items()}, path)
        weights = store.put_file(WEIGHTS, path)
    table = pa.table({"id": list(held_out.ids), "probability": [row.tobytes() for row in probabilities]})
    result = FoldResult(
        fold=job.fold,
        tiles=len(held_out),
        score=counts.score,
        iou=counts.iou,
        dice=counts.dice,
        epochs=state.epoch,
        seconds=sum(record["seconds"] for record in records),
        started=records[0]["at"] - records[0]["seconds"],
        finished=time.time(),
        weights_sha256=weights,
        oof_sha256=store.put_table(OOF, table),
    )
    store.put_json(RESULT, asdict(result))
    return result
