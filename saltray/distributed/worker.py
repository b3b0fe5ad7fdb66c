"""What each rank of a job runs: set up, resume, train, report, and in the end weights and out-of-fold predictions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointUploadMode

from saltray.config import PretrainConfig
from saltray.distributed import checkpoints
from saltray.distributed.held_out_predictor import HeldOutPredictor
from saltray.distributed.job_setup import Fold, JobTiles, initial_state, process_group_of, set_up_fold
from saltray.distributed.jobs import Job, LoopConfig, PermanentFailure, TrialHistory
from saltray.distributed.nodes import nodes_present
from saltray.errors import ConfigError, DivergedError, ModelError, ResourceError
from saltray.runs.fold_output import (
    snapshot_fault,
    write_fold,
)
from saltray.runs.history import EpochRecord, History, Record, epochs_of, read_history
from saltray.runs.layout import MANIFEST, checkpoint_folder, snapshot_folder
from saltray.runs.pretraining import write_pretraining
from saltray.runs.records import FoldResult, PretrainRecord
from saltray.search.objective import OBJECTIVE, best_epoch, objective
from saltray.storage.base import Store
from saltray.storage.files import make_scratch_folder
from saltray.training.device_memory import is_out_of_memory, memory_shortage
from saltray.training.engine import fit
from saltray.training.epoch_metrics import EpochMetrics, mean_metrics
from saltray.training.lr_range_test import LRRangeTest, lr_range_test
from saltray.training.precision import resolve_precision
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState
from saltray.training.tasks import Inpainting

T = TypeVar("T")


def train_fold(loop_config: LoopConfig) -> FoldResult | PermanentFailure | None:
    """Train one fold of a run; Ray Train calls this on every rank and returns what rank 0 returned."""
    return _run(_train_fold, loop_config)


def train_trial(loop_config: LoopConfig) -> TrialHistory | PermanentFailure | None:
    """Train one trial of a search in the same way; it leaves no weights."""
    return _run(_train_trial, loop_config)


@dataclass(frozen=True)
class RangeTestLoop:
    """Train a few steps of a fold at a growing learning rate; called as `train_fold` is."""

    low: float
    high: float
    steps: int

    def __call__(self, loop_config: LoopConfig) -> LRRangeTest | PermanentFailure:
        return _run(self._test, loop_config)

    def _test(self, job: Job, group: ProcessGroup) -> LRRangeTest:
        fold = set_up_fold(job, job.folds[0], group, JobTiles.open(job, group))
        return lr_range_test(fold.state, fold.train, job.config, group, low=self.low, high=self.high, steps=self.steps)


@dataclass(frozen=True)
class PretrainLoop:
    """Pretrain the network on all tiles of the job, without masks; called as `train_fold` is."""

    settings: PretrainConfig

    def __call__(self, loop_config: LoopConfig) -> PretrainRecord | PermanentFailure | None:
        return _run(self._pretrain, loop_config)

    def _pretrain(self, job: Job, group: ProcessGroup) -> PretrainRecord | None:
        tiles = JobTiles.open(job, group)
        everything = tiles.those(np.ones(len(tiles.pool.keys), dtype=bool))
        state = initial_state(job, 0, group)
        task = Inpainting(job.config, self.settings)
        epochs = _train(job, [state], [fit(state, everything, None, job.config, group, task)], group, tiles)
        return write_pretraining(job.home, job.config, state.ema, epochs) if group.rank == 0 else None


def _run(body: Callable[[Job, ProcessGroup], T], loop_config: LoopConfig) -> T | PermanentFailure:
    """`body`'s result, or the fault that every retry would meet again; such a fault is raised on all ranks alike.

    Raises:
        ResourceError: this rank of several lacks memory. The others wait for it, so Ray must end them.
    """
    job = loop_config["job"]
    group = process_group_of()
    try:
        check_store_is_shared(job, group)
        return body(job, group)
    except (DivergedError, ModelError, ConfigError) as error:
        return PermanentFailure(str(error), diverged=isinstance(error, DivergedError))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = memory_shortage(group.device, job.config, group.size)
        if group.size > 1:
            raise ResourceError(reason) from error
        return PermanentFailure(reason, diverged=False)


def _train_fold(job: Job, group: ProcessGroup) -> FoldResult | None:
    tiles = JobTiles.open(job, group)
    fold = set_up_fold(job, job.folds[0], group, tiles)
    cycles = job.config.snapshots
    epochs = _train(job, [fold.state], [fold.fit(job.config, group)], group, tiles, fold, cycles[:-1])
    predictor = HeldOutPredictor(fold, job.config, group)
    written = predictor.write(job.home, cycles)
    cost = predictor.cost()
    if written is None:
        return None
    return write_fold(job.home, job.folds[0], fold.state.ema, written, epochs, cycles[-1], cost)


def _train_trial(job: Job, group: ProcessGroup) -> TrialHistory:
    tiles = JobTiles.open(job, group)
    folds = [set_up_fold(job, fold, group, tiles) for fold in job.folds]
    return TrialHistory(
        _train(job, [fold.state for fold in folds], [fold.fit(job.config, group) for fold in folds], group, tiles)
    )


def _train(
    job: Job,
    states: list[FitState],
    in_turn: Sequence[Iterator[EpochMetrics]],
    group: ProcessGroup,
    tiles: JobTiles,
    fold: Fold | None = None,
    snapshots: Sequence[int] = (),
) -> tuple[EpochRecord, ...]:
    """Train to the end from the last checkpoint, and report each epoch; the whole history, on rank 0.

    Args:
        job: the job.
        states: the state of each of its folds.
        in_turn: the training of each, not begun: it starts from what its state then is.
        group: the process group of the job.
        tiles: all of them.
        fold: its only fold, where snapshots of it are wanted.
        snapshots: the cycles at whose ends the weights of that fold are written.
    """
    cycle_after = {job.config.cycle_ends[cycle - 1]: cycle for cycle in snapshots}
    records, notes = _resume(states, job.home, cycle_after, group)
    if len(nodes := set(_nodes(group))) > 1 or len(nodes_present()) > 1:
        notes.append(f"runs on {', '.join(sorted(nodes))}")
    notes += [tiles.note] if tiles.note is not None else []
    asked = job.config.train.precision
    if (precision := resolve_precision(asked, group.device)) != asked:
        notes.append(f"computes in {precision}: this {group.device.type} has no {asked} arithmetic")

    if group.rank == 0 and states[0].epoch == 0 and epochs_of(read_history(job.home)):
        notes.append("starts again at epoch 1: the last attempt left no checkpoint")

    reporter = _Reporter(job, states)
    with _history(job.home, records, states[0].epoch, notes, group) as history:
        for each in zip(*in_turn, strict=True):
            metrics = mean_metrics(each)
            if history is not None:
                history.append(metrics)
            if (cycle := cycle_after.get(metrics.epoch)) is not None:
                assert fold is not None
                _write_snapshot(job, fold, cycle, history, group)
            reporter.report(metrics, history)
        return history.epochs if history is not None else ()


def _write_snapshot(job: Job, fold: Fold, cycle: int, history: History | None, group: ProcessGroup) -> None:
    """Before the checkpoint of this epoch, so that whoever resumes after it finds the snapshot."""
    home = job.home.sub(snapshot_folder(cycle))
    written = HeldOutPredictor(fold, job.config, group).write(home, (cycle,))
    if history is not None and written is not None:
        write_fold(home, job.folds[0], fold.state.ema, written, history.epochs, cycle)


def check_store_is_shared(job: Job, group: ProcessGroup) -> None:
    """Raise ConfigError, on all ranks alike, unless each of them sees the driver's store."""
    sees = job.parent.exists(MANIFEST) or job.home.exists(MANIFEST)  # of a run or search, or of a pretraining
    blind = group.sum(torch.tensor(float(not sees), device=group.device))
    if blind > 0:
        raise ConfigError(
            f"{job.parent.uri} is not the same folder on every node: {int(blind)} of {group.size} ranks do not see the "
            "run in it; use s3://, or a folder that all nodes share"
        )


def _resume(
    states: list[FitState], home: Store, cycle_after: Mapping[int, int], group: ProcessGroup
) -> tuple[tuple[Record, ...], list[str]]:
    """Load the newest complete checkpoint of the job, if there is one; rank 0 says which.

    Args:
        states: one per fold of the job, which are changed.
        home: the job's part of the store.
        cycle_after: epoch -> the cycle that ends with it; a checkpoint needs the snapshots of those before it.
        group: the process group.

    Returns:
        the records up to it, and what to note.
    """

    def misfit(saved: list[checkpoints.StateDict]) -> str | None:
        if len(saved) != len(states):
            return f"it has {len(saved)} folds instead of {len(states)}"
        faults = (state.misfit(one) for state, one in zip(states, saved, strict=True))
        if fault := next(filter(None, faults), None):
            return fault
        cycles = [cycle for epoch, cycle in cycle_after.items() if epoch <= saved[0]["epoch"]]
        return next(filter(None, (snapshot_fault(home, cycle) for cycle in cycles)), None)

    found, notes = checkpoints.newest(home, misfit) if group.rank == 0 else (None, [])
    key = _broadcast(None if found is None else found.key, group)
    if key is None:
        return (), notes
    checkpoint = found if found is not None else checkpoints.load(home, key)
    for state, saved in zip(states, checkpoint.states, strict=True):
        state.load_state_dict(saved)
    return checkpoint.manifest.history, notes


def _nodes(group: ProcessGroup) -> list[str]:
    """Address of each rank's node."""
    nodes: list[Any] = [ray.util.get_node_ip_address()] * group.size  # type: ignore[no-untyped-call]
    if group.size > 1:
        torch.distributed.all_gather_object(nodes, nodes[0])
    return nodes


def _broadcast(value: str | None, group: ProcessGroup) -> str | None:
    """Rank 0's value, on every rank."""
    if group.size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=group.device)
    return box[0]


@contextmanager
def _history(
    home: Store, records: tuple[Record, ...], epoch: int, notes: list[str], group: ProcessGroup
) -> Iterator[History | None]:
    """Rank 0's history, continued after `records`, with what there is to note."""
    if group.rank != 0:
        yield None
        return
    with History(home, records) as history:
        for note in notes:
            history.note(note)
        if epoch:
            history.resume(epoch)
        yield history


class _Reporter:
    """Reports each epoch to Ray; rank 0, which keeps the history, adds a checkpoint when the last one is old enough."""

    def __init__(self, job: Job, states: list[FitState]) -> None:
        self.job = job
        self.states = states
        self.saved = time.monotonic()
        self.upload: checkpoints.Upload | None = None

    def report(self, metrics: EpochMetrics, history: History | None) -> None:
        checkpoint, epoch = None, self.states[0].epoch
        if history is not None and self._due():
            self.saved = time.monotonic()
            checkpoint = Checkpoint(str(make_scratch_folder()))
            states = [state.snapshot() for state in self.states]
            self.upload = checkpoints.Upload(self.job.parent, self.job.name, epoch, states, tuple(history.records))
        best = best_epoch(history.epochs if history is not None else [metrics])
        ray.train.report(
            asdict(metrics) | {OBJECTIVE: objective(best)},
            checkpoint=checkpoint,
            checkpoint_dir_name=checkpoint_folder(epoch),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self.upload,
            delete_local_checkpoint_after_upload=False,  # the upload does
        )

    def _due(self) -> bool:
        config = self.job.config
        if self.states[0].epoch == config.train.epochs:
            return config.can_be_extended  # otherwise nothing resumes from the last epoch
        # A slow store delays the next checkpoint: each queued upload would hold a copy of the whole state.
        old = time.monotonic() - self.saved >= config.train.checkpoint_every
        return old and (self.upload is None or self.upload.done.is_set())
