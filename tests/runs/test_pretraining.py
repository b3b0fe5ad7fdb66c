"""A pretraining in a store of each kind: written once, refused where it would change, and what it leaves."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load
from samples import DIGEST

from saltray.config import ClusterConfig, Config, FoldConfig, ModelConfig, OptimConfig, PretrainConfig
from saltray.data.all_images import AllImages
from saltray.data.tiles import Tiles
from saltray.ensemble.manifest import WeightsProvenance, provenance
from saltray.errors import ConfigError
from saltray.records import to_record
from saltray.runs.history import EpochRecord
from saltray.runs.initial_weights import InitialWeights
from saltray.runs.pretraining import create_pretraining, pretraining_result, write_pretraining
from saltray.runs.records import PretrainManifest, PretrainRecord
from saltray.storage.base import Store
from saltray.training.state import initial_model

CONFIG = Config(data="here", store="there", model=ModelConfig(num_filters=1, encoder_width=1))
SETTINGS = PretrainConfig(name="p1", hidden=0.5, patch=8)
IMAGES = AllImages(Tiles(("a", "b"), np.zeros((2, 3, 4), np.uint8)), DIGEST, ())
INITIAL = InitialWeights(({"layer": np.ones(2)},) * 5, WeightsProvenance(uri="file", sha256=(DIGEST,)))
EPOCH = EpochRecord(epoch=1, loss=0.5, lr=1e-3, seconds=4.0, images_per_second=9.0, at=100.0)


def create(
    home: Store,
    config: Config = CONFIG,
    settings: PretrainConfig = SETTINGS,
    images: AllImages = IMAGES,
    initial: InitialWeights | None = None,
) -> PretrainManifest:
    create_pretraining(home, config, settings, images, initial)
    return home.get_record("manifest.json", PretrainManifest)


def test_a_pretraining_has_a_manifest(store: Store) -> None:
    create(store, initial=INITIAL)
    record = store.get_json("manifest.json")
    assert len(record.pop("identity")) == 64
    assert record == {
        "name": "p1",
        "config": to_record(CONFIG),
        "pretrain": {"name": "p1", "hidden": 0.5, "patch": 8},
        "dataset": DIGEST,
        "tiles": 2,
        "initial_weights": {"uri": "file", "sha256": [DIGEST], "members": []},
        "provenance": provenance(),
    }


def test_it_is_written_once_and_what_decides_nothing_may_change(store: Store) -> None:
    first = create(store)
    store.put("result.json", b"finished")
    moved = replace(
        CONFIG, data="s3://b/x", run="r2", folds=FoldConfig(count=2), cluster=ClusterConfig(workers_per_fold=2)
    )
    assert create(store, moved) == first


def with_epochs(epochs: int, schedule: Literal["constant", "cosine"] = "constant") -> Config:
    return replace(CONFIG, optim=replace(CONFIG.optim, schedule=schedule), train=replace(CONFIG.train, epochs=epochs))


def test_a_finished_one_gets_more_epochs_where_the_schedule_allows(store: Store) -> None:
    create(store, with_epochs(2))
    store.put("result.json", b"finished")
    store.put("checkpoints/epoch-00002/manifest.json", b"{}")
    longer = create(store, with_epochs(3))
    assert longer.config.train.epochs == 3
    assert not store.exists("result.json")
    assert store.exists("checkpoints/epoch-00002/manifest.json")
    assert create(store, with_epochs(5)).config.train.epochs == 5  # before it has a result again
    with pytest.raises(ConfigError, match=r"pretraining p1 has train\.epochs 5, and 4 would be fewer; use 5 or more"):
        create(store, with_epochs(4))


@pytest.mark.parametrize(
    ("schedule", "checkpoint", "told"),
    [
        (
            "cosine",
            True,
            r"falls to zero at epoch 2 \(optim\.schedule cosine\); .* --model\.weights .*/model",
        ),
        ("constant", False, "left no checkpoint to resume from after its 2 epochs"),
    ],
)
def test_one_that_cannot_be_longer_is_left_as_it_is(
    store: Store, schedule: Literal["constant", "cosine"], checkpoint: bool, told: str
) -> None:
    first = create(store, with_epochs(2, schedule))
    store.put("result.json", b"finished")
    if checkpoint:
        store.put("checkpoints/epoch-00002/manifest.json", b"{}")
    with pytest.raises(ConfigError, match=told):
        create(store, with_epochs(3, schedule))
    assert store.exists("result.json")
    assert store.get_record("manifest.json", PretrainManifest) == first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": replace(CONFIG, optim=OptimConfig(lr=0.5))}, r"optim.lr \(0.001\)"),
        ({"settings": replace(SETTINGS, hidden=0.6, patch=9)}, r"pretrain.hidden \(0.5\), pretrain.patch \(8\)"),
        ({"images": replace(IMAGES, digest="e" * 64)}, "images"),
        ({"initial": INITIAL}, "initial weights"),
    ],
    ids=["settings", "own settings", "images", "weights"],
)
@pytest.mark.parametrize("sign", ["result.json", "checkpoints/epoch-00001/manifest.json"])
def test_one_that_has_trained_does_not_change(store: Store, change: dict[str, object], told: str, sign: str) -> None:
    first = create(store)
    store.put(sign, b"{}")
    with pytest.raises(ConfigError, match=f"pretraining p1 was started with other {told}; use those again"):
        create(store, **change)  # type: ignore[arg-type]
    assert store.get_record("manifest.json", PretrainManifest) == first


def test_one_that_never_trained_an_epoch_is_replaced_with_all_that_it_left(store: Store) -> None:
    first = create(store)
    for key in (
        "error.txt",
        "checkpoint_manager_snapshot.json",
        "checkpoints/epoch-00001/state.pt",
        "lock/000001.json",
    ):
        store.put(key, b"{}")
    assert create(store, settings=replace(SETTINGS, patch=9)).identity != first.identity
    assert {entry.key for entry in store.list()} == {"manifest.json", "lock/000001.json"}


def test_a_name_that_differs_in_capitals_is_another(store: Store) -> None:
    """FAT, SMB and macOS have one folder for both."""
    create(store)
    with pytest.raises(ConfigError, match="pretraining P1 and pretraining p1 are the same folder on this file system"):
        create(store, settings=replace(SETTINGS, name="P1"))


def test_the_weights_are_those_learnt_but_for_the_last_layer(store: Store) -> None:
    fresh = initial_model(CONFIG)
    model = initial_model(CONFIG)
    for tensor in model.state_dict().values():
        tensor.add_(1)
    result = write_pretraining(store, CONFIG, model, [EPOCH, replace(EPOCH, epoch=2, loss=0.25)])
    assert result == pretraining_result(store)
    assert (result.epochs, result.loss, result.seconds) == (2, 0.25, 8.0)
    weights = load(store.get("model.safetensors", sha256=result.weights_sha256))
    assert weights.keys() == fresh.state_dict().keys()
    last = {name for name, tensor in fresh.state_dict().items() if torch.equal(weights[name], tensor)}
    assert last == {"final.weight", "final.bias"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items() if name not in last)


def test_it_is_finished_when_result_and_weights_are_there(store: Store) -> None:
    assert pretraining_result(store) is None
    result = PretrainRecord(loss=0.5, epochs=3, seconds=7.0, weights_sha256=DIGEST)
    store.put_record("result.json", result)
    assert pretraining_result(store) is None
    store.put("model.safetensors", b"weights")
    assert pretraining_result(store) == result
