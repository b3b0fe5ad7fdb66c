"""A pretraining as a job of Ray Train: killed and resumed on two ranks, its weights used, a second writer refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ray_session import Recorded, record
from safetensors.torch import load, load_file

import saltray
from saltray.config import ClusterConfig, Config, ModelConfig, PretrainConfig
from saltray.errors import ConfigError, RunLockedError
from saltray.progress import (
    CapacityFound,
    LockTakenOver,
    PretrainFinishedBefore,
    PretrainPlanned,
    PretrainResumed,
)
from saltray.storage.base import Store
from saltray.storage.files import sha256_of
from saltray.storage.lock import RunLock
from saltray.storage.uri import open_store

from .conftest import check_resumed, killed_once

Small = Callable[..., Config]
SETTINGS = PretrainConfig(patch=20)


class Pretrained(NamedTuple):
    """A pretraining of which one rank was killed."""

    config: Config
    run: Recorded[saltray.PretrainResult]
    checkpoint: bytes
    """The manifest of its checkpoint when that happened."""


@pytest.fixture(scope="module")
def pretrained(
    ray_here: None, small: Small, tiles_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pretrained:
    """Two epochs of 24 training tiles and 6 test tiles on two ranks, at a constant learning rate."""
    from saltray.distributed import pretrain_job, worker

    folder = tmp_path_factory.mktemp("pretrained")
    config = small(tiles_folder, folder / "store", cluster=ClusterConfig(workers_per_fold=2, max_failures=1))
    config = replace(config, optim=replace(config.optim, schedule="constant"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pretrain_job,
            "PretrainLoop",
            lambda settings: killed_once(worker.PretrainLoop(settings), "p1", folder / "m"),
        )
        run = record(saltray.pretrain, config, SETTINGS)
    return Pretrained(config, run, (folder / "m").read_bytes())


def home_of(config: Config) -> Store:
    return open_store(f"{config.store}/pretrained/p1")


def keys_of(home: Store) -> dict[str, str]:
    return {entry.key: entry.tag for entry in home.list() if not entry.key.startswith("lock/")}


@pytest.mark.ray
def test_a_pretraining_that_lost_a_rank_is_resumed_to_its_end(pretrained: Pretrained) -> None:
    check_resumed(home_of(pretrained.config), pretrained.checkpoint, epochs=2)
    run = pretrained.run
    assert run.printed == ""
    assert run.of(PretrainPlanned)[0].tiles == 30
    assert run.of(CapacityFound)[0].needs == "2 ranks of 1 CPU"
    assert run.kinds == ["PretrainPlanned", "CapacityFound", "PretrainEpoch", "PretrainResumed", "PretrainEpoch"]
    assert run.of(PretrainResumed) == [PretrainResumed(1)]
    assert (run.result.tiles, run.result.epochs) == (30, 2)
    assert run.result.weights == f"{pretrained.config.store}/pretrained/p1/model.safetensors"
    assert run.result.sha256 == sha256_of(Path(run.result.weights))
    assert {"manifest.json", "history.jsonl", "model.safetensors", "result.json"} <= keys_of(
        home_of(pretrained.config)
    ).keys()


@pytest.mark.ray
def test_a_finished_one_is_not_trained_again(pretrained: Pretrained, stale_lock: Callable[[Store], str]) -> None:
    config, home = pretrained.config, home_of(pretrained.config)
    before, owner = keys_of(home), stale_lock(home)
    again = record(saltray.pretrain, replace(config, run="r9"), SETTINGS)
    assert again.kinds == ["LockTakenOver", "PretrainPlanned", "PretrainFinishedBefore"]
    assert (again.events[0], again.events[-1]) == (LockTakenOver(owner), PretrainFinishedBefore("p1"))
    assert again.result == pretrained.run.result
    with pytest.raises(ConfigError, match=r"pretraining p1 was started with other pretrain.patch \(20\); use those"):
        saltray.pretrain(config, replace(SETTINGS, patch=21))
    with RunLock(home, "pretraining p1", beat=0.05), pytest.raises(RunLockedError, match="pretraining p1 is being run"):
        saltray.pretrain(config, SETTINGS)
    assert keys_of(home) == before


@pytest.mark.ray
def test_its_weights_are_those_that_training_starts_from(pretrained: Pretrained) -> None:
    result, config = pretrained.run.result, pretrained.config
    barely = replace(
        config,
        run="started",
        model=replace(config.model, weights=result.weights),
        optim=replace(config.optim, lr=1e-9),
        train=replace(config.train, epochs=1),
        cluster=ClusterConfig(max_failures=0),
    )
    saltray.train(barely)
    run = open_store(f"{config.store}/runs/started")
    assert run.get_json("manifest.json")["initial_weights"] == {
        "uri": result.weights,
        "sha256": [result.sha256],
        "members": [],
    }
    given, trained = load_file(result.weights), load(run.get("fold-1/model.safetensors"))
    for name, tensor in given.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(trained[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.ray
def test_a_finished_one_is_trained_longer(pretrained: Pretrained, tmp_path: Path) -> None:
    shutil.copytree(pretrained.config.store, tmp_path / "store")
    train = replace(pretrained.config.train, epochs=3)
    longer = replace(pretrained.config, store=str(tmp_path / "store"), train=train, cluster=ClusterConfig())
    run = record(saltray.pretrain, longer, SETTINGS)
    assert run.kinds == ["PretrainPlanned", "CapacityFound", "PretrainResumed", "PretrainEpoch"]
    assert run.of(PretrainResumed) == [PretrainResumed(2)]
    assert run.result.epochs == 3
    assert run.result.sha256 == sha256_of(Path(run.result.weights)) != pretrained.run.result.sha256


def test_what_has_learnt_from_masks_is_no_start(
    small: Small, tiles_folder: Path, tmp_path: Path, untrained: str
) -> None:
    config = small(tiles_folder, tmp_path / "store")
    model = ModelConfig(encoder_width=4, num_filters=2, weights=untrained)
    for weights in (untrained, f"{untrained}/fold-0.safetensors"):
        with pytest.raises(ConfigError, match="is of an ensemble or a run, which has learnt from masks"):
            saltray.pretrain(replace(config, model=replace(model, weights=weights)))
    assert not list(open_store(config.store).list())


def test_images_that_do_not_fit_are_refused_before_anything_is_written(
    small: Small, tiles_folder: Path, tmp_path: Path
) -> None:
    config: Any = small(tiles_folder, tmp_path / "store")
    for change, told in (
        ({"train": replace(config.train, input_size=64)}, "101x101 pixels, but train.input_size is 64"),
        ({"cluster": ClusterConfig(gpus_per_worker=1)}, "1 rank of 1 GPU"),
    ):
        with pytest.raises(saltray.SaltrayError, match=told):
            saltray.pretrain(replace(config, **change))
    with pytest.raises(ConfigError, match="hides 1 of the 1 patches"):
        saltray.pretrain(config, PretrainConfig(patch=101))
    assert not list(open_store(config.store).list())
