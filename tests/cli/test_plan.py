"""A plan on the terminal, in numbers worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from command import Saltray, check_refusal

from saltray.cli.plan import print_plan
from saltray.commands.plan import RunPlan
from saltray.config import Config, TrainConfig
from saltray.data.packing import DatasetSize
from saltray.distributed.capacity import Capacity, JobResources
from saltray.errors import ConfigError
from saltray.recipes import best, blog

from .conftest import make_console

SHIPPED = Path(__file__).parents[2] / "cluster.yaml"
PLAN = RunPlan(
    config=Config(data="d", train=TrainConfig(epochs=60, batch_size=64)),
    tiles=DatasetSize(count=4000, height=101, width=101),
    capacity=Capacity(JobResources(ranks=2, cpus=1.0, gpus=1.0), concurrency=2, ready=1),
    present="2 GPUs and 8 CPUs on this machine",
    possible="4 GPUs and 16 CPUs (4 gpu_spot)",
    weights=1_000_000,
    images_per_second=800.0,
    speed_source="as given",
)
# 3,200 training tiles in 50 steps; 192,000 images of 60 epochs at 1,600 images/s take 120 s; three turns of two folds.


def rows(plan: RunPlan, price: float | None = None) -> dict[str, str]:
    """Label -> text, in the order of the lines."""
    console = make_console()
    print_plan(console, plan, price)
    return {line[:16].rstrip(): line[17:] for line in console.export_text().splitlines()}


def test_a_plan() -> None:
    assert rows(PLAN, price=3600) == {
        "run": "r1: 5 folds x 2 ranks, 60 epochs of albunet",
        "tiles": "4000 of 101x101, padded to 128",
        "an epoch": "up to 50 steps of 64 tiles, 32 a rank",
        "needed": "10 GPUs and 10 CPUs for all folds at once, 2 GPUs and 2 CPUs a fold",
        "present": "2 GPUs and 8 CPUs on this machine: 1 of 5 folds at once",
        "possible": "4 GPUs and 16 CPUs (4 gpu_spot): 2 of 5 folds at once",
        "to each node": "45.9 MB of tiles",
        "each rank sends": "4 MB of gradients a step: 0.0032 s at 10 Gbit/s, unless a step is longer",
        "a checkpoint": "16 MB a fold, at most one in 60 s, the last 2 are kept",
        "the ensemble": "20 MB",
        "GPU-hours": "0.333 at 800 images/s a GPU, as given",
        "time": "6 min with 2 of 5 folds at once, without start-up",
        "cost": "1200.00 at 3600 a GPU-hour, without start-up, idle nodes and the head node",
    }


def test_tiles_that_are_enlarged_and_models_of_several_snapshots() -> None:
    assert rows(replace(PLAN, config=blog(data="d")))["tiles"] == "4000 of 101x101, enlarged 2 times, padded to 256"
    several = best(data="d")
    assert rows(replace(PLAN, config=several))["the ensemble"] == f"{20 * several.train.snapshots} MB"


def test_without_a_price_or_a_speed() -> None:
    assert list(rows(PLAN)) == [label for label in rows(PLAN, price=1) if label != "cost"]
    unknown = rows(replace(PLAN, images_per_second=None), price=1)
    assert unknown["hours and cost"].startswith("unknown; give --images-per-second of one GPU, or --like ")
    assert not {"GPU-hours", "time", "cost"} & set(unknown)


def test_one_rank_without_a_gpu_sends_nothing() -> None:
    resources = JobResources(ranks=1, cpus=0.4, gpus=0)
    found = rows(replace(PLAN, capacity=Capacity(resources, concurrency=5, ready=9)), price=0)
    assert found["run"].startswith("r1: 5 folds x 1 rank, ")
    assert found["needed"] == "2 CPUs for all folds at once, 0.4 CPUs a fold"
    assert found["present"].endswith("5 of 5 folds at once")  # not 9: there are no more folds
    assert "each rank sends" not in found
    assert found["rank-hours"].endswith("a rank, as given")
    assert found["cost"].startswith("0.00 at 0 a rank-hour")


@pytest.mark.parametrize(
    ("epochs", "time"),
    [(60, "6 min"), (6, "36 s"), (19, "114 s"), (990, "99 min"), (1000, "1.7 h"), (10000, "16.7 h")],
)
def test_time_is_in_the_unit_that_a_person_would_use(epochs: int, time: str) -> None:
    config = replace(PLAN.config, train=replace(PLAN.config.train, epochs=epochs))
    assert rows(replace(PLAN, config=config))["time"].startswith(f"{time} with")


@pytest.mark.parametrize(("weights", "size"), [(1_000_000_000, "20 GB"), (1000, "20 kB"), (10, "0.2 kB")])
def test_sizes(weights: int, size: str) -> None:
    assert rows(replace(PLAN, weights=weights))["the ensemble"] == size


@pytest.mark.parametrize("price", [-1, float("nan"), float("inf")])
def test_an_impossible_price(price: float) -> None:
    with pytest.raises(ConfigError, match=f"price is {price}"):
        rows(PLAN, price)


def test_the_verb(saltray: Saltray, tiles_folder: Path) -> None:
    words = ("plan", "--data", tiles_folder, "--on", SHIPPED)
    answer = saltray(*words, "--workers-per-fold", 2, "--images-per-second", 900, "--price", 0.8)
    assert (answer.code, answer.err) == (0, "")
    assert "needed           10 GPUs and 10 CPUs for all" in answer.out
    assert " at 0.8 a GPU-hour" in answer.out
    check_refusal(saltray(*words, "--workers-per-fold", 16), "16 ranks of 1 GPU", "at most 10 GPUs")
    check_refusal(saltray(*words, "--folds.count", 25), "folds.count is 25", "24 tiles")
    check_refusal(saltray("plan", "--data", "nowhere", "--on", SHIPPED), "nowhere")
    check_refusal(saltray(*words, "--price", -1), "price is -1")
