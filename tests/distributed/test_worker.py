"""What a rank does: it resumes, trains, reports and writes its results. Here in this process, without a cluster."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors.torch import load

from saltray.config import AugmentConfig, Config, PretrainConfig
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.distributed import held_out_predictor, worker
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.distributed.worker import PretrainLoop, RangeTestLoop, train_fold, train_trial
from saltray.errors import ResourceError
from saltray.recipes import RECIPES
from saltray.runs.history import EpochRecord, NoteRecord, ResumeRecord, epochs_of, read_history
from saltray.runs.records import CheckpointManifest, FoldResult, PretrainRecord
from saltray.storage.base import Store
from saltray.training.lr_range_test import LRRangeTest
from saltray.training.process_group import ProcessGroup
from saltray.training.state import initial_model
from saltray.training.tile_pool import Cache, TilePart

MakeJob = Callable[..., Job]
BOUNDLESS = 1e30
"""A learning rate at which the first step makes the loss infinite."""


class Died(BaseException):
    """The process was killed; nothing in it may catch that."""


class FakeTrain:
    """Takes a rank's reports, as Ray Train does, and uploads each checkpoint at once."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reports: list[dict[str, Any]] = []
        self.uploaded: list[str] = []
        self.never_uploaded: list[Checkpoint | None] = []
        self.dies_in: int | None = None
        self.uploads = True
        patch.setattr(ray, "get", lambda value: value)
        patch.setattr(ray.train, "report", self.report)
        patch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
        patch.setattr(worker, "process_group_of", ProcessGroup.single)
        patch.setattr(worker, "nodes_present", lambda: [{"CPU": 1.0}])

    def report(
        self,
        metrics: dict[str, Any],
        *,
        checkpoint: Any,
        checkpoint_dir_name: str,
        checkpoint_upload_mode: CheckpointUploadMode,
        checkpoint_upload_fn: Any,
        delete_local_checkpoint_after_upload: bool,
    ) -> None:
        if metrics["epoch"] == self.dies_in:
            self.never_uploaded.append(checkpoint)
            raise Died
        self.reports.append(metrics)
        assert checkpoint_upload_mode == CheckpointUploadMode.ASYNC
        assert not delete_local_checkpoint_after_upload
        if checkpoint is not None and self.uploads:
            checkpoint_upload_fn(checkpoint, checkpoint_dir_name)
            self.uploaded.append(checkpoint_dir_name)
        else:
            self.never_uploaded.append(checkpoint)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTrain]:
    """At the end, no temporary files are left of those that were uploaded."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fake = FakeTrain(monkeypatch)
    yield fake
    torch.set_num_threads(threads)
    left = {str(path) for path in (tmp_path / "temporary").iterdir()}
    assert left == {checkpoint.path for checkpoint in fake.never_uploaded if checkpoint is not None}


@pytest.fixture(scope="module")
def tiles() -> LabelledTiles:
    """12 tiles of 40x40 with bright salt."""
    draw = np.random.default_rng(0)
    masks = np.zeros((12, 40, 40), np.uint8)
    for at in range(9):
        top, left = draw.integers(0, 20, 2)
        masks[at, top : top + 18, left : left + 15] = 1
    images = (60 + 110 * masks + draw.integers(0, 60, masks.shape)).astype(np.uint8)
    return LabelledTiles(tuple(f"{at:02}" for at in range(12)), images, masks)


@pytest.fixture
def job(make_job: MakeJob, small: Callable[..., Config], tiles: LabelledTiles) -> Job:
    """Three epochs of fold 1 of 2."""
    config = small("tiles", "store", epochs=3)
    config = replace(config, train=replace(config.train, input_size=64), augment=AugmentConfig(rotate=2))
    parts = tuple(TilePart.of(tiles.select(np.arange(a, b))) for a, b in ((0, 7), (7, 12)))
    return make_job(1, config=config, tiles=parts, fold_of=np.arange(12) % 2)


def with_train(job: Job, **changes: Any) -> Job:
    return replace(job, config=replace(job.config, train=replace(job.config.train, **changes)))


def with_lr(job: Job, lr: float) -> Job:
    return replace(job, config=replace(job.config, optim=replace(job.config.optim, lr=lr)))


def elsewhere(job: Job) -> Job:
    """The same job in another run."""
    other = job.parent.sub("other")
    other.put_json("manifest.json", {})
    return replace(job, parent=other)


def run_fold(job: Job) -> FoldResult:
    result = train_fold({"job": job})
    assert isinstance(result, FoldResult)
    return result


def test_a_fold_leaves_weights_predictions_and_a_result(fake: FakeTrain, job: Job, tiles: LabelledTiles) -> None:
    began = time.time()
    result = run_fold(job)
    assert job.home.get_record("result.json", FoldResult) == result
    assert (result.fold, result.tiles, result.epochs) == (1, 6, 3)
    assert began < result.started < result.finished < time.time()
    records = read_history(job.home)
    assert [record.epoch for record in epochs_of(records)] == [1, 2, 3]
    assert result.seconds == pytest.approx(sum(record.seconds for record in epochs_of(records)))
    assert [report["epoch"] for report in fake.reports] == [1, 2, 3]
    assert fake.reports[-1]["objective"] == pytest.approx(max(e.score or 0 for e in epochs_of(records)), abs=1e-6)
    table = job.home.get_table("oof.parquet", sha256=result.oof_sha256)
    assert table["id"].to_pylist() == [tiles.ids[at] for at in range(1, 12, 2)]
    rows = [np.frombuffer(row, np.float16) for row in table["probability"].to_pylist()]
    truth = tiles.masks[1::2].reshape(6, -1) > 0
    both, either = (np.stack(rows) > 0.5) & truth, (np.stack(rows) > 0.5) | truth
    assert result.iou == pytest.approx(both.sum() / either.sum())
    assert job.home.exists("model.safetensors")
    assert result.cost is not None
    assert (result.cost.device, result.cost.seconds > 0) == ("CPU", True)
    last = epochs_of(records)[-1].score  # of the same weights, without the mirror images too
    assert result.cost.score_without_tta == pytest.approx(last, abs=1e-6)
    assert sum(result.cost.gains) == 6
    gain = np.arange(-10, 11) @ np.array(result.cost.gains) / 60
    assert result.score - result.cost.score_without_tta == pytest.approx(gain)


def test_a_fold_that_is_resumed_gives_the_bytes_of_an_uninterrupted_one(fake: FakeTrain, job: Job) -> None:
    whole = run_fold(elsewhere(job))
    fake.dies_in = 2
    with pytest.raises(Died):
        run_fold(job)
    died = time.time()
    kept = job.home.get_record("checkpoints/epoch-00001/manifest.json", CheckpointManifest).history
    fake.dies_in = None
    fake.reports.clear()
    result = run_fold(job)
    assert [report["epoch"] for report in fake.reports] == [2, 3]
    assert (result.weights_sha256, result.oof_sha256) == (whole.weights_sha256, whole.oof_sha256)
    records = read_history(job.home)
    assert [type(record) for record in records] == [EpochRecord, ResumeRecord, EpochRecord, EpochRecord]
    assert records[:1] == kept  # to the time
    assert isinstance(records[1], ResumeRecord)
    assert records[1].resumed_after == 1
    assert all(record.at > died for record in records[1:])
    assert result.started == records[0].at - epochs_of(kept)[0].seconds


def test_a_corrupted_checkpoint_is_noted_and_the_one_before_used(fake: FakeTrain, job: Job) -> None:
    fake.dies_in = 3
    with pytest.raises(Died):
        run_fold(job)
    job.home.put("checkpoints/epoch-00002/state.pt", b"not what was written")
    fake.dies_in = None
    run_fold(job)
    _, note, resumed, *rest = read_history(job.home)
    assert isinstance(note, NoteRecord)
    assert note.note.startswith("checkpoint epoch-00002 is skipped: ")
    assert isinstance(resumed, ResumeRecord)
    assert resumed.resumed_after == 1
    assert [record.epoch for record in epochs_of(rest)] == [2, 3]


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_a_fold_of_each_recipe(fake: FakeTrain, job: Job, make: Callable[..., Config]) -> None:
    config = make(data="tiles")
    train = replace(config.train, epochs=5, batch_size=3, input_size=64 * config.train.resize, precision="fp32")
    late = config.late_loss if config.late_loss.after is None else replace(config.late_loss, after=2)
    model = replace(config.model, num_filters=4, encoder_width=8)
    result = run_fold(replace(job, config=replace(config, train=train, late_loss=late, model=model)))
    assert [model.cycle for model in result.models] == list(config.snapshots)
    table = job.home.get_table("oof.parquet")
    assert {len(row) for row in table["probability"].to_pylist()} == {2 * 40 * 40}


@pytest.fixture
def cycles(job: Job) -> Job:
    """Six epochs in three cycles, of which the last two enter the ensemble."""
    optim = replace(job.config.optim, schedule="cycles", cycles=3)
    train = replace(job.config.train, epochs=6, snapshots=2)
    return replace(job, config=replace(job.config, optim=optim, train=train))


def test_a_fold_of_cycles_leaves_a_model_of_each_of_the_last(fake: FakeTrain, cycles: Job) -> None:
    result = run_fold(cycles)
    assert [(model.cycle, model.key) for model in result.models] == [
        (2, "snapshot-2/model.safetensors"),
        (3, "model.safetensors"),
    ]
    assert len({model.sha256 for model in result.models}) == 2
    part = cycles.home.get_record("snapshot-2/result.json", FoldResult)
    assert (part.epochs, part.weights_sha256) == (4, result.models[0].sha256)
    assert not cycles.home.exists("snapshot-1/result.json")
    assert [record.lr for record in epochs_of(read_history(cycles.home))][1::2] == pytest.approx([0, 0, 0], abs=1e-9)
    # The same weights as of a training that ends there, and the mean of both predictions.
    only_last = run_fold(with_train(elsewhere(cycles), snapshots=1))
    assert only_last.weights_sha256 == result.weights_sha256
    assert only_last.models[0].score == result.models[1].score
    tables = [
        cycles.home.get_table("snapshot-2/oof.parquet"),
        elsewhere(cycles).home.get_table("oof.parquet"),
        cycles.home.get_table("oof.parquet"),
    ]
    first, second, mean = (
        np.stack([np.frombuffer(row, np.float16) for row in table["probability"].to_pylist()]).astype(np.float32)
        for table in tables
    )
    np.testing.assert_allclose(mean, (first + second) / 2, rtol=0, atol=3e-4)
    assert np.abs(first - second).max() > 1e-3


def test_a_resumed_fold_keeps_its_earlier_snapshots(fake: FakeTrain, cycles: Job) -> None:
    whole = run_fold(elsewhere(cycles))
    fake.dies_in = 6
    with pytest.raises(Died):
        run_fold(cycles)
    written = cycles.home.entry("snapshot-2/result.json").tag
    fake.dies_in = None
    result = run_fold(cycles)
    assert cycles.home.entry("snapshot-2/result.json").tag == written
    assert [model.sha256 for model in result.models] == [model.sha256 for model in whole.models]
    assert result.oof_sha256 == whole.oof_sha256


def test_a_checkpoint_after_a_snapshot_that_is_lost_is_not_used(fake: FakeTrain, cycles: Job) -> None:
    whole = run_fold(elsewhere(cycles))
    fake.dies_in = 5
    with pytest.raises(Died):
        run_fold(cycles)
    cycles.home.put("snapshot-2/model.safetensors", b"not what was written")
    fake.dies_in = None
    result = run_fold(cycles)
    notes = [record for record in read_history(cycles.home) if isinstance(record, NoteRecord)]
    assert notes[0].note.startswith("checkpoint epoch-00004 is skipped: ")
    assert "snapshot-2/model.safetensors" in notes[0].note
    assert [model.sha256 for model in result.models] == [model.sha256 for model in whole.models]


def test_more_epochs_of_a_constant_rate_are_those_of_a_longer_run(fake: FakeTrain, job: Job) -> None:
    job = replace(job, config=replace(job.config, optim=replace(job.config.optim, schedule="constant")))
    job = with_train(job, checkpoint_every=3600)
    whole = run_fold(with_train(elsewhere(job), epochs=5))
    short = run_fold(job)
    # Whatever is trained afterwards resumes from the last epoch.
    assert fake.uploaded == ["checkpoints/epoch-00005", "checkpoints/epoch-00003"]
    kept = read_history(job.home)
    longer = run_fold(with_train(job, epochs=5))
    assert (longer.weights_sha256, longer.oof_sha256) == (whole.weights_sha256, whole.oof_sha256)
    assert longer.weights_sha256 != short.weights_sha256
    records = read_history(job.home)
    assert records[:3] == kept
    assert isinstance(records[3], ResumeRecord)
    assert [record.epoch for record in epochs_of(records)] == [1, 2, 3, 4, 5]
    job.home.delete("result.json")
    assert run_fold(with_train(job, epochs=5)).weights_sha256 == whole.weights_sha256  # without an epoch more


def test_a_restart_without_a_checkpoint_is_noted(fake: FakeTrain, job: Job) -> None:
    fake.dies_in, fake.uploads = 2, False
    with pytest.raises(Died):
        run_fold(job)
    fake.dies_in = None
    run_fold(job)
    note, *epochs = read_history(job.home)
    assert isinstance(note, NoteRecord)
    assert note.note == "starts again at epoch 1: the last attempt left no checkpoint"
    assert [record.epoch for record in epochs_of(epochs)] == [1, 2, 3]


@pytest.mark.parametrize(("seconds", "written"), [(0.0, [1, 2]), (3600.0, [])])
def test_a_checkpoint_is_written_when_it_is_due(fake: FakeTrain, job: Job, seconds: float, written: list[int]) -> None:
    run_fold(with_train(job, checkpoint_every=seconds))
    # Nothing resumes from the last epoch.
    assert fake.uploaded == [f"checkpoints/epoch-{epoch:05d}" for epoch in written]


def test_an_upload_in_flight_delays_the_next_checkpoint(
    fake: FakeTrain, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    upload = worker.checkpoints.Upload

    def counted(*args: Any) -> Any:
        made.append(args[2])
        return upload(*args)

    monkeypatch.setattr(worker.checkpoints, "Upload", counted)
    fake.uploads = False
    run_fold(job)
    assert made == [1]


def test_given_weights_are_where_training_starts(fake: FakeTrain, job: Job) -> None:
    plain = run_fold(elsewhere(job))
    model = initial_model(job.config)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    same: Any = replace(job, name="fold-8", initial_weights=(None, weights))
    assert run_fold(same).weights_sha256 == plain.weights_sha256
    halved = {name: array / 2 if array.dtype == np.float32 else array for name, array in weights.items()}
    other: Any = replace(job, name="fold-9", initial_weights=(weights, halved))
    assert run_fold(other).weights_sha256 != plain.weights_sha256


@pytest.mark.parametrize("cache", ["host", "device"])
def test_where_tiles_are_and_how_many_are_predicted_at_a_time_changes_nothing(
    fake: FakeTrain, job: Job, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_fold(elsewhere(job))
    monkeypatch.setattr(held_out_predictor, "part_rows", lambda height, width: 1)
    cluster = replace(job.config.cluster, cache=cache)
    found = run_fold(replace(job, config=replace(job.config, cluster=cluster)))
    assert (found.weights_sha256, found.score) == (usual.weights_sha256, usual.score)
    assert found.cost is not None
    assert usual.cost is not None
    assert found.cost.score_without_tta == usual.cost.score_without_tta
    table, whole = (part.home.get_table("oof.parquet") for part in (job, elsewhere(job)))
    assert table.equals(whole)


def test_a_pretraining_leaves_the_weights_of_a_network_and_is_resumed(
    fake: FakeTrain, job: Job, tiles: LabelledTiles, home: Store
) -> None:
    loop, images = PretrainLoop(PretrainConfig(patch=10)), (TilePart.of(Tiles(tiles.ids, tiles.images)),)
    job = replace(job, config=replace(job.config, model=replace(job.config.model, deep_supervision=False)))
    untrained = initial_model(job.config).state_dict()

    def job_named(name: str) -> Any:
        named = replace(job, parent=home.sub("pretrained"), name=name, folds=(0,), tiles=images)
        named.home.put_json("manifest.json", {})
        return named

    whole = loop({"job": job_named("p1")})
    assert isinstance(whole, PretrainRecord)
    assert home.get_record("pretrained/p1/result.json", PretrainRecord) == whole
    assert (whole.epochs, [report["score"] for report in fake.reports]) == (3, [None] * 3)
    weights = load(home.get("pretrained/p1/model.safetensors", sha256=whole.weights_sha256))
    initial_model(job.config).load_state_dict(weights)
    same = {name for name, tensor in weights.items() if torch.equal(tensor, untrained[name])}
    assert {name for name in same if "running" not in name and "bn" not in name} == {"final.weight", "final.bias"}

    fake.dies_in = 2
    with pytest.raises(Died):
        loop({"job": job_named("p2")})
    fake.dies_in = None
    resumed = loop({"job": job_named("p2")})
    assert isinstance(resumed, PretrainRecord)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert any(isinstance(record, ResumeRecord) for record in read_history(home.sub("pretrained/p2")))


def test_what_was_not_as_expected_is_noted(fake: FakeTrain, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "nodes_present", lambda: [{"CPU": 1.0}, {"CPU": 1.0}])
    monkeypatch.setattr(worker, "resolve_precision", lambda precision, device: "fp32")
    run_fold(with_train(job, epochs=1, precision="bf16"))
    notes = [record.note for record in read_history(job.home) if isinstance(record, NoteRecord)]
    assert notes == ["runs on 10.0.0.1", "computes in fp32: this cpu has no bf16 arithmetic"]


def test_a_trial_averages_its_folds_epoch_by_epoch(fake: FakeTrain, job: Job) -> None:
    histories = {}
    for name, folds in (("first", (0,)), ("second", (1,)), ("both", (0, 1))):
        ended = train_trial({"job": with_train(replace(job, name=name, folds=folds), epochs=2)})
        assert isinstance(ended, TrialHistory)
        assert ended.epochs == epochs_of(read_history(job.parent.sub(name)))
        histories[name] = ended.epochs
    assert len(histories["both"]) == 2
    for first, second, both in zip(*histories.values(), strict=True):
        for key in ("score", "valid_loss", "loss", "iou", "dice"):
            assert getattr(both, key) == pytest.approx((getattr(first, key) + getattr(second, key)) / 2, abs=1e-9)
    # A trial has no result of a fold, and leaves no weights.
    assert {entry.key.partition("/")[0] for entry in job.parent.sub("both").list()} == {"checkpoints", "history.jsonl"}


def test_a_trial_of_several_folds_resumes_each(fake: FakeTrain, job: Job) -> None:
    job = with_train(replace(job, folds=(0, 1)), epochs=2)
    whole = train_trial({"job": elsewhere(job)})
    fake.dies_in = 2
    with pytest.raises(Died):
        train_trial({"job": job})
    fake.dies_in = None
    again = train_trial({"job": job})
    assert isinstance(whole, TrialHistory)
    assert isinstance(again, TrialHistory)
    assert [epoch.valid_loss for epoch in again.epochs] == [epoch.valid_loss for epoch in whole.epochs]
    assert sum(isinstance(record, ResumeRecord) for record in read_history(job.home)) == 1


@pytest.mark.parametrize("loop", [train_fold, train_trial])
def test_a_loss_that_is_infinite_is_a_permanent_failure(fake: FakeTrain, job: Job, loop: Any) -> None:
    ended = loop({"job": with_lr(job, BOUNDLESS)})
    assert isinstance(ended, PermanentFailure)
    assert ended.diverged
    assert "NaN or infinite in epoch 1" in ended.reason
    assert not job.home.exists("result.json")


@pytest.mark.parametrize("loop", [train_fold, train_trial, RangeTestLoop(1e-5, 1.0, 3), PretrainLoop(PretrainConfig())])
def test_a_rank_that_does_not_see_the_store_is_a_permanent_failure(
    fake: FakeTrain, job: Job, loop: Any, home: Store
) -> None:
    home.delete("manifest.json")
    ended = loop({"job": job})
    assert ended == PermanentFailure(
        f"{home.uri} is not the same folder on every node: 1 of 1 ranks do not see the run in it; use s3://, or a "
        "folder that all nodes share",
        diverged=False,
    )
    assert not list(home.list())


def fill_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("loop", [train_fold, train_trial, RangeTestLoop(1e-5, 1.0, 3), PretrainLoop(PretrainConfig())])
def test_memory_that_is_short_is_a_permanent_failure(
    fake: FakeTrain, job: Job, tiles: LabelledTiles, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.functional, "conv2d", fill_memory)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", fill_memory)
    if isinstance(loop, PretrainLoop):
        images: Any = (TilePart.of(Tiles(tiles.ids, tiles.images)),)
        job = replace(job, tiles=images)
    ended = loop({"job": job})
    assert isinstance(ended, PermanentFailure)
    assert not ended.diverged
    assert ended.reason.startswith("the machine has ")
    batch = job.config.train.batch_size
    assert ended.reason.endswith(f"a batch of {batch} tiles at 64x64 needs more; use --train.batch-size {batch // 2}")


def test_memory_that_one_rank_of_several_lacks_ends_them_all(
    fake: FakeTrain, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(job: Job, group: ProcessGroup) -> None:
        fill_memory()

    two = ProcessGroup(rank=1, size=2, device=torch.device("cpu"))
    monkeypatch.setattr(worker, "process_group_of", lambda: two)
    monkeypatch.setattr(worker, "check_store_is_shared", lambda job, group: None)
    with pytest.raises(ResourceError, match="one of 2 parts of train.batch_size"):
        worker._run(body, {"job": job})


def test_other_faults_are_not_taken_for_it(fake: FakeTrain, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "set_up_fold", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        train_fold({"job": job})


def test_a_range_test_trains_at_a_growing_rate(fake: FakeTrain, job: Job) -> None:
    found = RangeTestLoop(1e-5, 1e-1, 5)({"job": job})
    assert isinstance(found, LRRangeTest)
    assert found.rates == pytest.approx((1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    assert all(math.isfinite(loss) for loss in found.losses)
    assert not fake.reports
