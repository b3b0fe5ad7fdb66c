"""What only a GPU shows. A dry run takes the tests that take `device` to the CPU."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saltray
import saltray.training.precision as precision_module
from saltray.config import ClusterConfig, Config, ModelConfig
from saltray.data.synthetic import write_dataset
from saltray.data.tiles import LabelledTiles
from saltray.distributed.cluster import ray_cluster
from saltray.errors import FoldsFailedError
from saltray.models.build import build_model
from saltray.progress import Event, FoldEpoch, FoldResumed
from saltray.training.engine import fit
from saltray.training.inference import predict_probabilities
from saltray.training.precision import resolve_precision
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model
from saltray.training.tile_tensors import TileTensors

pytestmark = pytest.mark.gpu
MakeConfig = Callable[..., Config]
EPOCHS = 150
"""Of a training that is killed: it takes longer than the news of its second epoch."""


def train(
    config: Config, tiles: LabelledTiles, group: ProcessGroup, state: FitState | None = None
) -> tuple[FitState, list[Any]]:
    state = state or FitState.create(config, group)
    tensors = TileTensors.create(tiles, group.device)
    return state, list(fit(state, tensors, tensors, config, group))


# One process


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_follows_that_of_the_cpu(
    precision: Any, device: torch.device, make_config: MakeConfig, salt: LabelledTiles
) -> None:
    if precision == "bf16" and resolve_precision("bf16", device) != "bf16":
        pytest.skip("no bfloat16 on this device")
    _, here = train(make_config(precision=precision), salt, ProcessGroup.single(device))
    _, there = train(make_config(precision="fp32"), salt, ProcessGroup.single())
    tolerance = 0.05 if precision == "bf16" else 0.02
    assert [epoch.loss for epoch in here] == pytest.approx([epoch.loss for epoch in there], rel=tolerance)
    assert here[-1].valid_loss == pytest.approx(there[-1].valid_loss, rel=2 * tolerance)


def test_half_precision_is_scaled(
    device: torch.device, make_config: MakeConfig, salt: LabelledTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that is taken for one without bfloat16; gradients below float16's least number must not become zero."""
    monkeypatch.setattr(precision_module, "_has_bf16", lambda device: False)
    resolve_precision.cache_clear()
    try:
        if resolve_precision("bf16", device) != "fp16":
            pytest.skip("float16 is not used here")
        state, here = train(make_config(precision="bf16", epochs=3), salt, ProcessGroup.single(device))
    finally:
        resolve_precision.cache_clear()
    _, there = train(make_config(precision="fp32", epochs=3), salt, ProcessGroup.single(device))
    assert [epoch.loss for epoch in here] == pytest.approx([epoch.loss for epoch in there], rel=0.05)
    assert all(bool(parameter.isfinite().all()) for parameter in state.model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())


def test_a_resumed_training_equals_one_without_interruption(
    device: torch.device, make_config: MakeConfig, salt: LabelledTiles
) -> None:
    config, group = make_config(epochs=3, precision="fp32"), ProcessGroup.single(device)
    whole, _ = train(config, salt, group)
    tensors = TileTensors.create(salt, device)
    first = FitState.create(config, group)
    next(fit(first, tensors, tensors, config, group))
    saved = copy.deepcopy(first.snapshot())
    assert all(tensor.device.type == "cpu" for tensor in saved["model"].values())
    resumed = FitState.create(config, group)
    resumed.load_state_dict(saved)
    train(config, salt, group, resumed)
    for name, tensor in whole.ema.state_dict().items():
        # Some of cuDNN's sums have no fixed order, and Adam turns the least of gradients into whole steps.
        torch.testing.assert_close(resumed.ema.state_dict()[name], tensor, rtol=1e-2, atol=5e-3)
    assert (resumed.epoch, resumed.step) == (whole.epoch, whole.step)


def test_prediction_equals_the_cpus(device: torch.device, salt: LabelledTiles) -> None:
    model = build_model(ModelConfig(num_filters=4, encoder_width=8)).eval()
    images = torch.from_numpy(np.array(salt.images))
    settings: dict[str, Any] = {"input_size": 64, "batch_size": 8}
    expected = predict_probabilities([model], images, precision="fp32", **settings)
    for precision, tolerance in (("fp32", 5e-3), ("bf16", 3e-2)):
        found = predict_probabilities([copy.deepcopy(model).to(device)], images, precision=precision, **settings)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_tiles_on_the_host_give_the_batches_of_those_on_the_gpu(device: torch.device, salt: LabelledTiles) -> None:
    pools = pytest.importorskip("saltray.training.tile_pool")
    order = torch.arange(len(salt), device=device).flip(0)
    found = {}
    for cache in ("device", "host"):
        pool = pools.open_pool([pools.TilePart.of(salt)], device, cache)
        batches = list(TileTensors(pool, torch.arange(len(salt), device=device)).batches(order, 5))
        found[cache] = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    for there, here in zip(found["device"], found["host"], strict=True):
        assert (there.device.type, here.device.type) == (device.type, device.type)
        assert torch.equal(there, here)


def test_memory_that_is_short_is_told(make_config: MakeConfig, salt: LabelledTiles) -> None:
    from saltray.training.device_memory import is_out_of_memory, memory_shortage

    device = torch.device("cuda")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    text = memory_shortage(device, make_config(batch_size=512), 1)
    assert float(text.split()[3]) == pytest.approx(total, rel=0.05)
    assert text.endswith("use --train.batch-size 256")


# Processes of NCCL

RANK = """
import sys, torch, torch.distributed as dist
from saltray.training.process_group import ProcessGroup
from saltray.training.norm import convert_sync_batchnorm
from saltray.config import ModelConfig
from saltray.models.build import build_model

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
device = torch.device("cuda", rank)
torch.cuda.set_device(device)
torch.backends.cudnn.allow_tf32 = False
dist.init_process_group("nccl", init_method=f"file://{folder}/group", rank=rank, world_size=size, device_id=device)
group = ProcessGroup(rank, size, device)
assert group.sum(torch.tensor([1.0 + rank], device=device)).item() == size * (size + 1) / 2
torch.manual_seed(0)
model = build_model(ModelConfig(architecture="unet", num_filters=4))
images = torch.rand(8, 1, 32, 32)
alone = model.train()(images)
alone = getattr(alone, "logits", alone).detach()
synchronised = convert_sync_batchnorm(build_model(ModelConfig(architecture="unet", num_filters=4)), group)
synchronised.load_state_dict(model.state_dict())
mine = slice(rank * 8 // size, (rank + 1) * 8 // size)
outputs = synchronised.to(device).train()(images[mine].to(device))
outputs = getattr(outputs, "logits", outputs)
torch.testing.assert_close(outputs.detach().cpu(), alone[mine], rtol=1e-3, atol=1e-3)
outputs.sum().backward()
dist.destroy_process_group()
"""


def test_nccl_sums_and_normalises_over_all_ranks(tmp_path: Path) -> None:
    size = min(2, torch.cuda.device_count())
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(size), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    try:
        for process in ranks:
            errors = process.communicate(timeout=120)[1]
            assert process.returncode == 0, errors.decode()
    finally:
        for process in ranks:
            process.kill()


# Runs


@pytest.fixture(scope="module")
def ray_on_gpu() -> Iterator[None]:
    with ray_cluster():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("gpu") / "tiles", tiles=40, seed=1, test_tiles=4))


def run_of(data: str, store: Path, config: Config, **cluster: Any) -> Config:
    train = replace(config.train, input_size=128)
    settings = {"gpus_per_worker": 0.2, "max_failures": 2} | cluster
    return replace(config, data=data, store=str(store), train=train, cluster=ClusterConfig(**settings))


@pytest.mark.ray
def test_five_folds_share_a_gpu(ray_on_gpu: None, data: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, make_config())
    result = saltray.train(config)
    assert all(fold.cost is not None and fold.cost.device == torch.cuda.get_device_name() for fold in result.results)
    starts, ends = ([getattr(fold, name) for fold in result.results] for name in ("started", "finished"))
    assert max(starts) < max(ends)
    on_gpu = saltray.Ensemble.load(result.ensemble, device="cuda")
    on_cpu = saltray.Ensemble.load(result.ensemble, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (8, 101, 101), np.uint8)
    np.testing.assert_allclose(on_gpu.predict(images), on_cpu.predict(images), rtol=0, atol=0.03)
    predicted = saltray.predict(ensemble=result.ensemble, data=data, out=tmp_path / "submission.csv")
    assert predicted.tiles == 4


@pytest.mark.ray
def test_a_fold_whose_process_is_killed_resumes_on_the_gpu(
    ray_on_gpu: None, data: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = run_of(data, tmp_path, make_config(epochs=EPOCHS, checkpoint_every=0))
    events: list[Event] = []
    killed: list[int] = []

    def kill_rank(event: Event) -> None:
        events.append(event)
        if isinstance(event, FoldEpoch) and event.epoch >= 2 and not killed:
            killed.append(rank_of_ray())
            os.kill(killed[0], signal.SIGKILL)

    result = saltray.train(config, only_folds=[0], observer=kill_rank)
    assert killed
    assert any(isinstance(event, FoldResumed) for event in events)
    assert [fold.epochs for fold in result.results] == [EPOCHS]


def rank_of_ray() -> int:
    """Process of a rank, of this session's Ray."""
    from saltray.distributed.ray_internals import RANK

    end = time.monotonic() + 30
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes().decode(errors="replace")
            except OSError:  # it has ended
                continue
            if title.startswith("ray::") and RANK in title:
                return int(path.parent.name)
        time.sleep(0.1)
    pytest.fail(f"no process of {RANK}")


@pytest.mark.ray
def test_a_batch_that_does_not_fit_ends_a_fold_at_once(
    ray_on_gpu: None, data: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - 5 * 2**29, dtype=torch.uint8, device="cuda")
    config = replace(make_config(epochs=1, batch_size=512), model=ModelConfig())
    with pytest.raises(FoldsFailedError) as caught:
        saltray.train(run_of(data, tmp_path, config, gpus_per_worker=0.5), only_folds=[0])
    del taken
    torch.cuda.empty_cache()
    (reason,) = caught.value.failures.values()
    assert reason.startswith("the GPU has ")
    assert " GiB, of which other processes hold " in reason
    assert reason.endswith("use --train.batch-size 256, or --cluster.gpus-per-worker 1, so that fewer share it")


def test_untrained_networks_are_equal_on_both(device: torch.device, make_config: MakeConfig) -> None:
    config = make_config()
    state = FitState.create(config, ProcessGroup.single(device))
    for name, tensor in initial_model(config).state_dict().items():
        assert torch.equal(state.model.state_dict()[name].cpu(), tensor)
