"""What a run would take, worked by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import DIGEST, STORED_CONFIG, STORED_EPOCH, STORED_PROVENANCE

import saltray
from saltray.commands.plan import count_text
from saltray.config import ClusterConfig, Config, FoldConfig, ModelConfig, TrainConfig
from saltray.data.packing import pack
from saltray.distributed.capacity import JobResources
from saltray.distributed.machine import cpus_here
from saltray.errors import ConfigError, DataError, ModelError, NotFoundError, ResourceError
from saltray.models.build import build_model
from saltray.storage.uri import open_store

SHIPPED = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, not even the Ray of other tests in this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def config_of(tiles_folder: Path, store: Path, *, ranks: int = 2, **settings: Any) -> Config:
    return Config(
        data=str(tiles_folder),
        store=str(store),
        model=ModelConfig(num_filters=4, encoder_width=8),
        train=TrainConfig(epochs=10, batch_size=8),
        cluster=ClusterConfig(workers_per_fold=ranks),
        **settings,
    )


def test_five_pairs_on_the_cluster_as_shipped(tiles_folder: Path, tmp_path: Path) -> None:
    plan = saltray.plan(config_of(tiles_folder, tmp_path), on=SHIPPED, images_per_second=100)
    assert plan.resources == JobResources(ranks=2, cpus=1, gpus=1)
    assert (plan.capacity.ready, plan.capacity.concurrency) == (0, 5)
    assert plan.present == "no cluster is connected"
    assert plan.possible.startswith("10 GPUs and 40 CPUs (")
    assert "10 gpu_spot" in plan.possible
    # 24 tiles: 4 or 5 a fold, so a fold trains on 20 at most: 3 steps of 8.
    assert (plan.training_tiles, plan.steps) == (20, 3)
    assert (plan.images_per_second, plan.speed_source) == (100, "as given")
    assert plan.fold_seconds == pytest.approx(3 * 8 * 10 / 200)
    assert plan.rank_hours == pytest.approx(5 * 2 * 1.2 / 3600)
    assert plan.hours == pytest.approx(1.2 / 3600)
    assert list(tmp_path.iterdir()) == []  # nothing was packed or written


def test_a_store_of_one_job_of_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="the store here is in the working directory of this one job of the cluster"):
        saltray.plan(Config(data="d", store="here"))


def test_without_a_speed_there_is_no_time(tiles_folder: Path, tmp_path: Path) -> None:
    plan = saltray.plan(config_of(tiles_folder, tmp_path), on=SHIPPED)
    assert (plan.fold_seconds, plan.rank_hours, plan.hours) == (None, None, None)


@pytest.mark.parametrize(("ranks", "share"), [(1, 0), (2, 1), (4, 1.5)])
def test_the_size_of_what_moves(tiles_folder: Path, tmp_path: Path, ranks: int, share: float) -> None:
    plan = saltray.plan(config_of(tiles_folder, tmp_path, ranks=ranks), on=SHIPPED)
    weights = sum(tensor.numel() for tensor in build_model(plan.config.model).state_dict().values())
    assert plan.weights == weights
    assert plan.checkpoint_bytes == 16 * weights
    assert plan.ensemble_bytes == 5 * 4 * weights
    assert plan.bytes_per_step == pytest.approx(share * 4 * weights)  # 2 (n - 1) / n
    assert plan.tiles.packed_bytes == 24 * (101 * 101 + 1276)


def test_queued_folds_take_longer(tiles_folder: Path, tmp_path: Path) -> None:
    plan = saltray.plan(config_of(tiles_folder, tmp_path, ranks=4), on=SHIPPED, images_per_second=100)
    assert plan.capacity.concurrency == 2
    assert plan.hours == pytest.approx(3 * 240 / 400 / 3600)
    assert plan.rank_hours == pytest.approx(5 * 4 * 240 / 400 / 3600)


def test_a_shared_gpu_counts_by_its_share(tiles_folder: Path, tmp_path: Path) -> None:
    config = Config(
        data=str(tiles_folder), store=str(tmp_path), cluster=ClusterConfig(gpus_per_worker=0.2, cpus_per_worker=0.5)
    )
    plan = saltray.plan(config, on=SHIPPED, images_per_second=100)
    assert plan.fold_seconds is not None
    assert plan.rank_hours == pytest.approx(5 * 0.2 * plan.fold_seconds / 3600)


def test_a_packed_data_set_is_counted_by_its_manifest(tiles_folder: Path, tmp_path: Path) -> None:
    packed = pack(str(tiles_folder), open_store(str(tmp_path)))
    plans = [
        saltray.plan(Config(data=data, store=str(tmp_path)), on=SHIPPED)
        for data in (f"datasets/{packed.name}", str(tiles_folder))
    ]
    assert plans[0].tiles == plans[1].tiles
    assert plans[0].tiles.count == 24


def test_the_speed_of_a_run(tiles_folder: Path, tmp_path: Path) -> None:
    """Of one that saltray 0.1 trained, on two ranks a fold."""
    home = open_store(f"{tmp_path}/runs/r0")
    config = config_of(tiles_folder, tmp_path)
    with pytest.raises(NotFoundError, match="no run r0"):
        saltray.plan(config, on=SHIPPED, like="r0")
    cluster = STORED_CONFIG["cluster"] | {"workers_per_fold": 2}
    home.put_json(
        "manifest.json",
        {
            "config": STORED_CONFIG | {"cluster": cluster},
            "dataset": DIGEST,
            "identity": "1" * 64,
            "origin": None,
            "provenance": STORED_PROVENANCE,
            "run": "r0",
        },
    )
    balance = {"coverage": 0.5, "empty_share": 0.5, "fold": 0, "positives": 15, "tiles": 30}
    home.put_json("folds.json", {"balance": [balance, balance | {"fold": 1}], "fold_of": {}})
    with pytest.raises(NotFoundError, match="r0 .* has no epoch yet; give --images-per-second"):
        saltray.plan(config, on=SHIPPED, like="r0")
    for fold in range(2):
        lines = [{"note": "runs on 10.0.0.1", "at": 1.0}]
        lines += [STORED_EPOCH | {"epoch": epoch, "seconds": float(epoch)} for epoch in (1, 2)]
        home.put(f"fold-{fold}/history.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    plan = saltray.plan(config, on=SHIPPED, like="r0")
    assert plan.images_per_second == pytest.approx(4 * 30 / 6 / 2)
    assert plan.speed_source == "as in run r0"
    with pytest.raises(ConfigError, match="given both by --images-per-second and by --like"):
        saltray.plan(config, on=SHIPPED, like="r0", images_per_second=1)


def test_without_a_cluster_this_machine_is_what_there_is(tiles_folder: Path, tmp_path: Path) -> None:
    one = Config(data=str(tiles_folder), store=str(tmp_path), cluster=ClusterConfig(gpus_per_worker=0))
    plan = saltray.plan(one, images_per_second=10)
    assert (plan.capacity.concurrency, plan.capacity.ready) == (5, 5)
    assert plan.present.endswith(f"{count_text(cpus_here(), 'CPU')} on this machine")
    assert plan.possible == "no more"
    assert plan.rank_hours is not None  # of ranks
    assert plan.rank_hours == pytest.approx(5 * (plan.fold_seconds or 0) / 3600)


def test_what_can_never_run_is_refused(tiles_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="a job needs 1 rank of .*4096 CPU.*lower --cpus-per-worker"):
        saltray.plan(Config(data=str(tiles_folder), cluster=ClusterConfig(cpus_per_worker=4096, gpus_per_worker=0)))
    with pytest.raises(ResourceError, match="16 ranks of 1 GPU .* at most 10 GPUs"):
        config = Config(data=str(tiles_folder), cluster=ClusterConfig(workers_per_fold=16))
        saltray.plan(config, on=SHIPPED)
    with pytest.raises(ConfigError, match="folds.count is 25, but there are only 24 tiles"):
        saltray.plan(config_of(tiles_folder, tmp_path, folds=FoldConfig(count=25)), on=SHIPPED)
    with pytest.raises(DataError, match="nowhere"):
        saltray.plan(config_of(tmp_path / "nowhere", tmp_path), on=SHIPPED)
    with pytest.raises(ConfigError, match="tiles have 101x101 pixels.*use --train.input-size 128"):
        saltray.plan(replace(config_of(tiles_folder, tmp_path), train=TrainConfig(input_size=64)), on=SHIPPED)
    with pytest.raises(ModelError, match="nowhere"):
        saltray.plan(Config(data=str(tiles_folder), model=ModelConfig(weights="nowhere.safetensors")), on=SHIPPED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf")])
def test_an_impossible_speed(tiles_folder: Path, tmp_path: Path, speed: float) -> None:
    with pytest.raises(ConfigError, match=f"images_per_second is {speed}; use a positive number"):
        saltray.plan(config_of(tiles_folder, tmp_path), on=SHIPPED, images_per_second=speed)


def test_the_address_of_the_jobs_api_is_no_cluster_to_join(tiles_folder: Path) -> None:
    # A process of its own, as one that is connected to Ray already has no need of the address.
    script = f"import saltray\nsaltray.plan(saltray.Config(data={str(tiles_folder)!r}, store='/s'))"
    environment = os.environ | {"RAY_ADDRESS": "http://127.0.0.1:8265"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "ConfigError: RAY_ADDRESS is http://127.0.0.1:8265" in done.stderr.splitlines()[-1]
    assert "unset it" in done.stderr.splitlines()[-1]
