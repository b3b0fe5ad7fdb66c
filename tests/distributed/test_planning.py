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


def test_a_packed_data_set_is_counted_by_its_manifest(tiles_folder: Path, tmp_path: Path) -> None:
    packed = pack(str(tiles_folder), open_store(str(tmp_path)))
    same = Config(data=f"datasets/{packed.name}", store=str(tmp_path))
    raw = Config(data=str(tiles_folder), store=str(tmp_path))
    assert library.plan(same, on=SHIPPED).tiles == library.plan(raw, on=SHIPPED).tiles


def test_the_pace_of_a_run(tiles_folder: Path, tmp_path: Path) -> None:
    home = open_store(f"{tmp_path}/runs/r0")
    with pytest.raises(NotFoundError, match="no run r0"):
        library.plan(config(tiles_folder, tmp_path), on=SHIPPED, like="r0")
    home.put_json("manifest.json", {"config": {"folds": {"count": 2}, "cluster": {"workers_per_fold": 2}}})
    home.put_json("folds.json", {"balance": [{"tiles": 30}, {"tiles": 30}]})
    with pytest.raises(NotFoundError, match="r0 .* has no epoch yet"):
        library.plan(config(tiles_folder, tmp_path), on=SHIPPED, like="r0")
    for fold in range(2):
        with History(home.sub(f"fold-{fold}")) as history:
            history.note("runs on 10.0.0.1")
            history.append({"epoch": 1, "seconds": 1.0})
            history.append({"epoch": 2, "seconds": 2.0})
    plan = library.plan(config(tiles_folder, tmp_path), on=SHIPPED, like="r0")
    assert plan.pace == pytest.approx(4 * 30 / 6 / 2)
    assert "as in run r0" in dict(plan.rows())["GPU-hours"]
    with pytest.raises(ConfigError, match="given both"):
        library.plan(config(tiles_folder, tmp_path), on=SHIPPED, like="r0", images_per_second=1)


def test_without_gpus_this_machine_is_what_there_is(tiles_folder: Path, tmp_path: Path) -> None:
    one = Config(data=str(tiles_folder), store=str(tmp_path), cluster=ClusterConfig(gpus_per_worker=0))
    plan = library.plan(one, images_per_second=10)
    assert plan.at_once == plan.room == 5
    assert "rank-hours" in dict(plan.rows())
    with pytest.raises(ResourceError):
        library.plan(Config(data=str(tiles_folder), cluster=ClusterConfig(cpus_per_worker=4096)))


@pytest.mark.parametrize("pace", [0, -1, float("nan"), float("inf")])
def test_an_impossible_pace(tiles_folder: Path, tmp_path: Path, pace: float) -> None:
    with pytest.raises(ConfigError, match="images per second"):
        library.plan(config(tiles_folder, tmp_path), on=SHIPPED, images_per_second=pace)


def test_the_command_refuses_what_can_never_run(saltray: Saltray, tiles_folder: Path) -> None:
    flags = ("plan", "--data", tiles_folder, "--on", SHIPPED)
    answer = saltray(*flags, "--workers-per-fold", 2, "--images-per-second", 900, "--price", 0.8)
    assert answer.code == 0
    assert "10 GPUs and 10 CPUs" in answer.out
    check_refusal(saltray(*flags, "--workers-per-fold", 16), "16 ranks of 1 GPU", "at most 10 GPUs")
    check_refusal(saltray(*flags, "--folds.count", 25), "folds.count is 25", "24 tiles")
    check_refusal(saltray("plan", "--data", "nowhere", "--on", SHIPPED), "nowhere")
    check_refusal(saltray(*flags, "--price", -1), "price is -1")


def test_the_address_of_the_jobs_api_is_no_cluster_to_join(tiles_folder: Path) -> None:
    # A process of its own, as one that is connected to Ray already has no need of the address.
    environment = os.environ | {"RAY_ADDRESS": "http://127.0.0.1:8265"}
    command = [COMMAND, "plan", "--data", str(tiles_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    answer = Answer(done.returncode, done.stdout, done.stderr)
    check_refusal(answer, "RAY_ADDRESS is http://127.0.0.1:8265", "unset it")
