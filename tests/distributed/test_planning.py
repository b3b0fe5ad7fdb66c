"""What a run would take, worked by hand."""

import os
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, Answer, Saltray, check_refusal

import saltray as library
from saltray.config import ClusterConfig, Config, ModelConfig, TrainConfig
from saltray.data.packing import pack
from saltray.distributed.history import History
from saltray.errors import ConfigError, NotFoundError, ResourceError
from saltray.models.build import build_model
from saltray.storage.names import open_store

SHIPPED = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


pytestmark = pytest.mark.usefixtures("alone")


def config(tiles_folder: Path, store: Path, *, ranks: int = 2) -> Config:
    return Config(
        data=str(tiles_folder),
        store=str(store),
        model=ModelConfig(num_filters=4, encoder_width=8),
        train=TrainConfig(epochs=10, batch_size=8),
        cluster=ClusterConfig(workers_per_fold=ranks),
    )


def test_five_pairs_on_the_cluster_as_shipped(tiles_folder: Path, tmp_path: Path) -> None:
    plan = library.plan(config(tiles_folder, tmp_path), on=SHIPPED, images_per_second=100)
    assert (plan.demand.ranks, plan.demand.gpus) == (2, 1)
    assert (plan.room, plan.at_once) == (0, 5)
    # 24 tiles: 4 or 5 a fold, so a fold trains on 20 at most: 3 steps of 8.
    assert (plan.training_tiles, plan.steps) == (20, 3)
    assert plan.fold_seconds == pytest.approx(3 * 8 * 10 / 200)
    assert plan.rank_hours == pytest.approx(5 * 2 * 1.2 / 3600)
    assert plan.hours == pytest.approx(1.2 / 3600)
    rows = dict(plan.rows(price=3600))
    assert rows["wanted"].startswith("10 GPUs and 10 CPUs for all folds at once, 2 GPUs and 2 CPUs a fold")
    assert "10 gpu_spot" in rows["possible"]
    assert rows["cost"].startswith("12.00 ")
    assert list(tmp_path.iterdir()) == []  # nothing was packed or written


def test_the_size_of_what_moves(tiles_folder: Path, tmp_path: Path) -> None:
    plan = library.plan(config(tiles_folder, tmp_path), on=SHIPPED)
    weights = sum(tensor.numel() for tensor in build_model(plan.config.model).state_dict().values())
    assert plan.weights == weights
    assert plan.checkpoint_bytes == 16 * weights
    assert plan.tiles.packed_bytes == 2 * 24 * 101 * 101
    rows = dict(plan.rows())
    # 2 (n - 1) / n is 1 for a pair.
    assert rows["each rank sends"].startswith(f"{4 * weights / 1e6:.3g} MB of gradients a step: ")
    assert "unknown" in rows["hours and cost"]


def test_folds_that_wait_in_line_take_their_time(tiles_folder: Path, tmp_path: Path) -> None:
    plan = library.plan(config(tiles_folder, tmp_path, ranks=4), on=SHIPPED, images_per_second=100)
    assert plan.at_once == 2
    assert plan.hours == pytest.approx(3 * 240 / 400 / 3600)


def test_the_command_refuses_what_can_never_run(saltray: Saltray, tiles_folder: Path) -> None:
    flags = ("plan", "--data", tiles_folder, "--on", SHIPPED)
    answer = saltray(*flags, "--workers-per-fold", 2, "--images-per-second", 900, "--price", 0.8)
    assert answer.code == 0
    assert "10 GPUs and 10 CPUs" in answer.out
    check_refusal(saltray(*flags, "--workers-per-fold", 16), "16 ranks of 1 GPU", "at most 10 GPUs")
    check_refusal(saltray(*flags, "--folds.count", 25), "folds.count is 25", "24 tiles")
    check_refusal(saltray("plan", "--data", "nowhere", "--on", SHIPPED), "nowhere")
    check_refusal(saltray(*flags, "--price", -1), "price is -1")
