"""What each rank of a job runs: set up, resume, loop, report, and in the end weights and out-of-fold predictions."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from saltray.data.tiles import Tiles
from saltray.distributed import checkpoints
from saltray.distributed.history import History
from saltray.distributed.jobs import Job, Stopped, Tried
from saltray.distributed.objective import OBJECTIVE, best_epoch, objective
from saltray.distributed.run_records import OOF, RESULT, WEIGHTS
from saltray.distributed.runtime import nodes_present
from saltray.ensemble.manifest import FoldResult
from saltray.errors import ConfigError, DivergedError, ModelError
from saltray.storage.base import Store
from saltray.training.engine import fit, mean_metrics
from saltray.training.inference import predict_probabilities
from saltray.training.lr_range_test import LRRangeTest, lr_range_test
from saltray.training.metrics import Counts
from saltray.training.precision import resolve_precision
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model
from saltray.training.tile_tensors import TileTensors

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Fold:
    """One fold on one rank."""

    held_out: Tiles
    train: TileTensors
    valid: TileTensors
    state: FitState


def ranks_of(config: Config) -> ProcessGroup:
    """This rank, as Ray Train made it."""
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # More threads than the rank's own share make ranks on shared cores wait for each other.
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker or 1)))
    return ProcessGroup(rank=context.get_world_rank(), size=context.get_world_size(), device=device)


def run(loop_config: dict[str, Any]) -> FoldResult | Stopped | None:
    """Train one fold of a run; Ray Train calls this on every rank and hands back what rank 0 returns."""
    job: Job = loop_config["job"]
    return stopping(_run, job, ranks_of(job.config))


def try_out(loop_config: dict[str, Any]) -> Tried | Stopped:
    """Train one trial of a search, in the same way; it leaves no weights."""
    job: Job = loop_config["job"]
    return stopping(_try_out, job, ranks_of(job.config))


@dataclass(frozen=True)
class RangeTest:
    """Train a few steps of a fold at a growing learning rate; to be run as `run` is."""

    low: float
    high: float
    steps: int

    def __call__(self, loop_config: dict[str, Any]) -> LRRangeTest | Stopped:
        job: Job = loop_config["job"]
        return stopping(self._sweep, job, ranks_of(job.config))

    def _sweep(self, job: Job, ranks: ProcessGroup) -> LRRangeTest:
        check_shared(job.run, ranks)
        fold = prepare(job, job.folds[0], ranks)
        return lr_range_test(fold.state, fold.train, job.config, ranks, low=self.low, high=self.high, steps=self.steps)


def stopping(body: Callable[[Job, ProcessGroup], Answer], job: Job, ranks: ProcessGroup) -> Answer | Stopped:
    """`body`'s result, or what stopped it where that would happen again on every retry; it is raised on all ranks."""
    try:
        return body(job, ranks)
    except (DivergedError, ModelError, ConfigError) as error:
        return Stopped(str(error), diverged=isinstance(error, DivergedError))


def _run(job: Job, ranks: ProcessGroup) -> FoldResult | None:
    check_shared(job.run, ranks)
    fold = prepare(job, job.folds[0], ranks)
    records = _train(job, [fold], ranks)
    probabilities = _out_of_fold(fold.state, fold.valid, job.config, ranks)
    if ranks.rank != 0:
        return None
    assert probabilities is not None
    return _finish(job, fold, probabilities, records)


def _try_out(job: Job, ranks: ProcessGroup) -> Tried:
    check_shared(job.run, ranks)
    return Tried(tuple(_train(job, [prepare(job, fold, ranks) for fold in job.folds], ranks)))


def prepare(job: Job, fold: int, ranks: ProcessGroup) -> Fold:
    """The tiles of one fold on this rank's device, and the state before the first step."""
    tiles: Tiles = ray.get(job.tiles)
    held_out = tiles.select(np.flatnonzero(job.fold_of == fold))
    train = TileTensors.create(tiles.select(np.flatnonzero(job.fold_of != fold)), ranks.device)
    model = initial_model(job.config)
    if job.initial is not None:
        model.load_state_dict({name: torch.tensor(array) for name, array in ray.get(job.initial).items()})
    state = FitState.create(job.config, ranks, model)
    return Fold(held_out, train, TileTensors.create(held_out, ranks.device), state)


def _train(job: Job, folds: list[Fold], ranks: ProcessGroup) -> list[dict[str, Any]]:
    """Train to the end from the last checkpoint, and report each epoch; the history, on rank 0."""
    states = [fold.state for fold in folds]
    lines, notes = _resume(states, job.home, ranks)
    if len(places := set(_places(ranks))) > 1 or len(nodes_present()) > 1:
        notes.append(f"runs on {', '.join(sorted(places))}")
    asked = job.config.train.precision
    if (precision := resolve_precision(asked, ranks.device)) != asked:
        notes.append(f"computes in {precision}: this {ranks.device.type} has no {asked} arithmetic")

    reporter = _Reporter(job, states)
    with _history(job.home, lines, notes, ranks) as history:
        in_turn = (fit(fold.state, fold.train, fold.valid, job.config, ranks) for fold in folds)
        for metrics in zip(*in_turn, strict=True):
            record = asdict(mean_metrics(metrics))
            if history is not None:
                history.append(record)
            reporter.report(record, history)
        return history.epochs if history is not None else []


def check_shared(run: Store, ranks: ProcessGroup) -> None:
    """Raise ConfigError, on all ranks alike, unless each of them sees the driver's store."""
    blind = ranks.sum(torch.tensor(float(not run.exists("manifest.json")), device=ranks.device))
    if blind > 0:
        raise ConfigError(
            f"{run.uri} is not the same folder on every node: {int(blind)} of {ranks.size} ranks do not see the run "
            "in it; use s3://, or a folder that all nodes share"
        )


def _resume(states: list[FitState], store: Store, ranks: ProcessGroup) -> tuple[list[dict[str, Any]], list[str]]:
    """Load the newest whole checkpoint of the job, if there is one; rank 0 says which.

    Returns:
        the history up to it, and what to note.
    """
    key, kept, notes = None, None, list[str]()
    lines: list[dict[str, Any]] = []
    if ranks.rank == 0:
        key, kept, notes = checkpoints.newest(store)
    key = _agree(key, ranks)
    if key is not None:
        whole = kept if kept is not None else checkpoints.load(store, key)
        for state, part in zip(states, whole["folds"], strict=True):
            state.load_state_dict(part)
        notes.append(f"goes on after epoch {states[0].epoch}, from its last checkpoint")
        lines = store.get_json(f"{key}/manifest.json")["history"]
    return lines, notes


def _places(ranks: ProcessGroup) -> list[str]:
    """Address of each rank's machine."""
    places: list[Any] = [ray.util.get_node_ip_address()] * ranks.size  # type: ignore[no-untyped-call]
    if ranks.size > 1:
        torch.distributed.all_gather_object(places, places[0])
    return places


def _agree(value: str | None, ranks: ProcessGroup) -> str | None:
    """Rank 0's value, on every rank."""
    if ranks.size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=ranks.device)
    return box[0]


@contextmanager
def _history(
    store: Store, lines: list[dict[str, Any]], notes: list[str], ranks: ProcessGroup
) -> Iterator[History | None]:
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

    def __init__(self, job: Job, states: list[FitState]) -> None:
        self.job = job
        self.states = states
        self.saved = time.monotonic()
        self.upload: checkpoints.Upload | None = None

    def report(self, record: dict[str, Any], history: History | None) -> None:
        checkpoint, epoch = None, self.states[0].epoch
        if history is not None and self._due():
            self.saved = time.monotonic()
            checkpoint = Checkpoint(tempfile.mkdtemp(prefix="saltray-"))
            kept = {"folds": [checkpoints.detach(state.state_dict()) for state in self.states]}
            self.upload = checkpoints.Upload(self.job.run, self.job.name, epoch, kept, tuple(history.records))
        ray.train.report(
            record | {OBJECTIVE: objective(best_epoch(history.epochs if history is not None else [record]))},
            checkpoint=checkpoint,
            checkpoint_dir_name=checkpoints.name_of(epoch),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self.upload,
        )

    def _due(self) -> bool:
        # Nobody goes on from the last epoch. A slow store delays the next checkpoint, for
        # each one in line would hold a copy of the whole state.
        train = self.job.config.train
        old = time.monotonic() - self.saved >= train.checkpoint_every
        return old and self.states[0].epoch < train.epochs and (self.upload is None or self.upload.done.is_set())


def _out_of_fold(
    state: FitState, valid: TileTensors, config: Config, ranks: ProcessGroup
) -> NDArray[np.float16] | None:
    """Probabilities of the held-out tiles, [N, H, W], on rank 0; each rank predicts every size-th tile."""
    mine = predict_probabilities(
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


def _finish(job: Job, fold: Fold, probabilities: NDArray[np.float16], records: list[dict[str, Any]]) -> FoldResult:
    """Write weights and out-of-fold predictions, then the result that says the fold is done."""
    held_out, state, store = fold.held_out, fold.state, job.home
    assert held_out.masks is not None
    counts = Counts.of(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(held_out.masks), 0.5)
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, WEIGHTS)
        save_file({key: value.contiguous().cpu() for key, value in state.ema.state_dict().items()}, path)
        weights = store.put_file(WEIGHTS, path)
    table = pa.table({"id": list(held_out.ids), "probability": [row.tobytes() for row in probabilities]})
    result = FoldResult(
        fold=job.folds[0],
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
