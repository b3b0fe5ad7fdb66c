"""Runs whose folds are finished: thin networks in a store of each kind."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from saltray.config import Config, FoldConfig, ModelConfig, TrainConfig
from saltray.ensemble.manifest import EnsembleManifest, FoldResult
from saltray.ensemble.publishing import publish
from saltray.ensemble.threshold import ThresholdChoice
from saltray.models.build import build_model
from saltray.storage.base import Store
from saltray.storage.names import open_store

FOLDS = 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than free cores make small tensors crawl."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


@pytest.fixture(scope="session")
def config() -> Config:
    return Config(
        data="unused",
        run="r1",
        folds=FoldConfig(count=FOLDS),
        model=ModelConfig(encoder_width=4, num_filters=2),
        train=TrainConfig(input_size=64, precision="fp32"),
    )


@pytest.fixture(scope="session")
def weights(config: Config) -> list[bytes]:
    """Each fold's weights as safetensors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [save(build_model(config.model).state_dict()) for _ in range(FOLDS)]


@pytest.fixture
def results(store: Store, weights: list[bytes]) -> list[FoldResult]:
    """The results of run r1, whose weights are in the store."""
    return [put_fold(store, fold, data) for fold, data in enumerate(weights)]


def put_fold(store: Store, fold: int, data: bytes) -> FoldResult:
    """Put a fold's weights into run r1, as the end of its training does."""
    store.put(f"runs/r1/fold-{fold}/model.safetensors", data)
    return FoldResult(
        fold=fold,
        tiles=10 + fold,
        score=0.7 + fold / 100,
        iou=0.6,
        dice=0.75,
        epochs=3,
        seconds=1.5,
        started=1000.0,
        finished=1002.0,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        oof_sha256="0" * 64,
    )


Publisher = Callable[[list[FoldResult]], EnsembleManifest]


@pytest.fixture
def publish_run(store: Store, config: Config) -> Publisher:
    """Publishes the given results of run r1."""
    dataset: dict[str, Any] = {"height": 64, "width": 64, "digest": "d" * 64}

    def run(results: list[FoldResult]) -> EnsembleManifest:
        choice = ThresholdChoice(0.44, 0.7321, (0.44, 0.5), (0.7321, 0.7123))
        return publish(store, config=config, results=results, choice=choice, score=0.7123, floor=0.39, dataset=dataset)

    return run
