"""Configurations: their checks, their way through JSON, and what makes two runs the same."""

import dataclasses
from typing import Any

import pytest

from saltray.config import (
    AugmentConfig,
    ClusterConfig,
    Config,
    FoldConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    check_name,
    digest,
    from_dict,
    to_dict,
)
from saltray.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FoldConfig(count=1), "folds.count is 1"),
        (lambda: OptimConfig(lr=0), "optim.lr is 0"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr is nan"),
        (lambda: OptimConfig(ema_decay=1.0), "optim.ema_decay is 1.0"),
        (lambda: AugmentConfig(flip=1.5), "augment.flip is 1.5"),
        (lambda: AugmentConfig(scale=1), "augment.scale is 1"),
        (lambda: TrainConfig(epochs=0), "train.epochs is 0"),
        (lambda: TrainConfig(bce=0, dice=0), "both 0"),
        (lambda: ModelConfig(weights="x.pth", encoder_width=16), "width 64, not 16"),
        (lambda: ClusterConfig(workers_per_fold=0), "workers_per_fold is 0"),
        (lambda: ClusterConfig(gpus_per_worker=2), "gpus_per_worker is 2"),
        (lambda: ClusterConfig(gpus_per_worker=0.5, workers_per_fold=2), "NCCL refuses"),
        (lambda: Config(data=""), "data is empty"),
        (lambda: Config(data="d", run="../r1"), "'../r1' is not a plain name"),
        (lambda: Config(data="d", train=TrainConfig(input_size=101)), "a multiple of 64; use 128"),
        (
            lambda: Config(data="d", train=TrainConfig(batch_size=9), cluster=ClusterConfig(workers_per_fold=2)),
            "does not divide among 2 workers; use 10",
        ),
    ],
)
def test_an_impossible_value_is_named_in_one_line(make: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_round_trip() -> None:
    config = Config(data="d", folds=FoldConfig(count=3), optim=OptimConfig(lr=0.1))
    assert from_dict(to_dict(config)) == config


def test_unknown_field_is_refused() -> None:
    record = to_dict(Config(data="d"))
    record["train"]["epoch"] = 3
    with pytest.raises(ConfigError, match="epoch"):
        from_dict(record)


def test_hardware_and_places_are_no_part_of_the_identity() -> None:
    here = Config(data="a", store="b", run="c")
    there = Config(data="x", store="y", run="z", cluster=ClusterConfig(workers_per_fold=2))
    other = dataclasses.replace(here, optim=OptimConfig(lr=0.5))
    assert digest(here.identity) == digest(there.identity) != digest(other.identity)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b", "x" * 101, "a\n"])
def test_names_that_cannot_be_keys(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name, "run")
