"""Runs whose folds are finished: thin networks in a store of each kind; and their ensembles."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from safetensors.torch import save
from samples import EVALUATION, ensemble_manifest, publish_models

from saltray.config import Config, FoldConfig, ModelConfig, TrainConfig
from saltray.data.packed import DatasetManifest
from saltray.data.pixel_range import PixelRange
from saltray.data.statistics import Statistics
from saltray.ensemble.manifest import EnsembleManifest, Member
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel
from saltray.models.build import build_model
from saltray.storage.base import Store
from saltray.storage.uri import open_store

FOLDS = 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slow with more threads than free cores."""
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
def dataset() -> DatasetManifest:
    statistics = Statistics(
        train_tiles=21,
        height=64,
        width=48,
        empty=8,
        full=0,
        vertical=0,
        tiny=0,
        black=0,
        duplicate_masks=0,
        mean_coverage=0.25,
        median_coverage=None,
        pixel_mean=0.5,
        pixel_std=0.2,
    )
    return DatasetManifest(
        format=2,
        name="tiles",
        source="unused",
        digest="d" * 64,
        tiles=21,
        height=64,
        width=48,
        statistics=statistics,
        pixel_range=PixelRange(bits=8, maximum=255),
        shards=(),
        index="e" * 64,
    )


@pytest.fixture(scope="session")
def weights(config: Config) -> list[bytes]:
    """Each fold's weights as safetensors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [save(build_model(config.model).state_dict()) for _ in range(FOLDS)]


@pytest.fixture
def models(store: Store, weights: list[bytes]) -> list[FoldModel]:
    """The models of run r1, whose weights are in the store."""
    return [put_fold(store, fold, data) for fold, data in enumerate(weights)]


def put_fold(store: Store, fold: int, data: bytes) -> FoldModel:
    """Put a fold's weights into run r1."""
    key = f"runs/r1/fold-{fold}/model.safetensors"
    store.put(key, data)
    return FoldModel(fold=fold, key=key, sha256=hashlib.sha256(data).hexdigest(), score=0.7 + fold / 100)


Publisher = Callable[[Sequence[FoldModel]], EnsembleManifest]


@pytest.fixture
def publish_run(store: Store, config: Config, dataset: DatasetManifest) -> Publisher:
    """Publishes the given models of run r1."""

    def run(models: Sequence[FoldModel]) -> EnsembleManifest:
        return publish_models(store, config, models, dataset)

    return run


@pytest.fixture
def uri(store: Store, models: list[FoldModel], publish_run: Publisher) -> str:
    """URI of a published ensemble."""
    publish_run(models)
    return f"{store.uri}/ensembles/r1"


@pytest.fixture(scope="session")
def manifest() -> EnsembleManifest:
    """The manifest of an ensemble of five folds that is in no store."""
    members = [Member(fold=k, key=f"fold-{k}.safetensors", sha256=f"{k}" * 64, score=k / 5) for k in range(5)]
    return ensemble_manifest(
        members=tuple(members),
        postprocess=Postprocess(threshold=0.46, min_area=30, blank_is_empty=True),
        score=0.1 + 0.2,
        score_at_threshold=0.75,
        baseline=0.39,
        evaluation=EVALUATION,
        config=Config(data="tiles", model=ModelConfig(weights="IMAGENET1K_V1")),
        provenance={"python": "3.11.9", "commit": None},
    )


def flipped(data: bytes) -> bytes:
    """Safetensors with the lowest bit of the last byte inverted: still well-formed, but with another digest."""
    return data[:-1] + bytes([data[-1] ^ 1])
