"""Masks of test tiles by the models of an earlier ensemble: which models, what they give, and how it is kept."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from samples import ensemble_manifest

from saltray.config import Config, FoldConfig, ModelConfig, OptimConfig, PseudoLabelConfig, TrainConfig
from saltray.data.tiles import Tiles
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import Member
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError
from saltray.records import digest
from saltray.runs.pseudo_labels import (
    PseudoLabels,
    Teacher,
    find_teacher,
    has_labels,
    label,
    read_labels,
    write_labels,
)
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.training.state import initial_model

CPU = torch.device("cpu")
TILES = Tiles(
    tuple(f"test/{at}" for at in range(5)), np.random.default_rng(0).integers(0, 256, (5, 13, 11)).astype(np.uint8)
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def root(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def thin(seed: int = 0, snapshots: int = 1) -> Config:
    optim = OptimConfig(schedule="cycles", cycles=snapshots) if snapshots > 1 else OptimConfig()
    train = TrainConfig(seed=seed, input_size=64, precision="fp32", batch_size=2, snapshots=snapshots)
    model = ModelConfig(num_filters=1, encoder_width=1)
    return Config(data="d", folds=FoldConfig(count=2), model=model, optim=optim, train=train)


def publish(root: Store, *, snapshots: int = 1, version: str = "v1", seed: int = 5) -> str:
    """An ensemble of two folds, whose post-processing would call every pixel empty; its URI."""
    home, members = root.sub(f"ensembles/e/{version}"), []
    for fold in range(2):
        for cycle in range(1, snapshots + 1):
            data = save(initial_model(thin(seed + 10 * fold + cycle)).state_dict())
            key = f"fold-{fold}-snapshot-{cycle}.safetensors"
            home.put(key, data)
            sha256 = hashlib.sha256(data).hexdigest()
            members.append(Member(fold=fold, snapshot=cycle, key=key, sha256=sha256, score=0.5))
    manifest = ensemble_manifest(
        name="e",
        version=version,
        members=tuple(members),
        config=thin(snapshots=snapshots),
        postprocess=Postprocess(threshold=0.99),
    )
    home.put_record("manifest.json", manifest)
    return f"{root.uri}/ensembles/e"


def using(uri: str, folds: int = 2) -> Config:
    return replace(thin(), folds=FoldConfig(count=folds), pseudo_labels=PseudoLabelConfig(ensemble=uri))


def teacher_of(uri: str, folds: int = 2) -> Teacher:
    teacher = find_teacher(using(uri, folds))
    assert teacher is not None
    return teacher


def labels_of(teacher: Teacher, fold: int) -> PseudoLabels:
    return label(teacher.models(fold, CPU), teacher.manifest.config, TILES, CPU)


def some(ids: str = "abcd", confidence: tuple[float, ...] = (0.1, 0.4, 0.4, 0.2)) -> PseudoLabels:
    masks = tuple(bytes([at, 0]) for at in range(len(ids)))
    return PseudoLabels(tuple(ids), np.array(confidence, np.float32), masks)


# Which models


def test_none_is_asked_for() -> None:
    assert find_teacher(thin()) is None


@pytest.mark.parametrize("snapshots", [1, 2])
def test_a_fold_is_labelled_by_its_own_models_alone(root: Store, snapshots: int) -> None:
    """Those of the other fold have been trained on the tiles that this one holds out."""
    uri = publish(root, snapshots=snapshots)
    teacher = teacher_of(uri)
    assert [[member.fold for member in members] for members in teacher.members] == [[0] * snapshots, [1] * snapshots]
    ensemble = Ensemble.load(uri)
    for fold in range(2):
        own = ensemble.models[fold * snapshots : (fold + 1) * snapshots]
        expected = Ensemble(ensemble.manifest, own, CPU).predict(TILES.images)
        found = labels_of(teacher, fold)
        np.testing.assert_allclose(found.confidence, np.abs(expected - 0.5).mean(axis=(1, 2)), rtol=1e-5)
        for at in range(len(TILES)):
            np.testing.assert_array_equal(found.mask(at, 13, 11), expected[at] > 0.5)
    first, second = (labels_of(teacher, fold) for fold in range(2))
    assert not np.allclose(first.confidence, second.confidence)


def test_what_is_recorded(root: Store) -> None:
    uri = publish(root, snapshots=2)
    found = teacher_of(uri, folds=3).provenance("a" * 64, 2)
    assert (found.uri, found.members, found.images, found.tiles) == (f"{uri}/v1", (0, 1, 0), "a" * 64, 2)
    members = root.get_json("ensembles/e/v1/manifest.json")["members"]
    own = [digest([member["sha256"] for member in members if member["fold"] == fold]) for fold in (0, 1, 0)]
    assert found.sha256 == tuple(own)
    others = [replace(found, images="b" * 64), replace(found, sha256=("c" * 64,) * 3), replace(found, tiles=1)]
    assert [other.digest == found.digest for other in others] == [False, False, True]


def test_the_version_of_an_earlier_command_is_taken_again(root: Store) -> None:
    uri = publish(root)
    before = teacher_of(uri).provenance("a" * 64, 1)
    publish(root, version="v2", seed=7)
    assert teacher_of(uri).home.uri == f"{uri}/v2"
    again = find_teacher(using(uri), before)
    assert again is not None
    assert again.provenance("a" * 64, 1) == before


def test_what_is_no_ensemble_and_what_is_damaged(root: Store) -> None:
    with pytest.raises(ConfigError, match=r"pseudo_labels\.ensemble w\.safetensors is no ensemble; name one as STORE/"):
        find_teacher(using("w.safetensors"))
    with pytest.raises(EnsembleError, match="no complete ensemble at"):
        find_teacher(using(f"{root.uri}/ensembles/x"))
    uri = publish(root)
    root.put("ensembles/e/v1/fold-1-snapshot-1.safetensors", b"junk")
    with pytest.raises(IntegrityError, match=r"fold-1-snapshot-1\.safetensors"):
        find_teacher(using(uri))


# Labels


def test_the_most_confident_and_among_equals_the_first() -> None:
    assert [some().most_confident(count).tolist() for count in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2, 3], [0, 1, 2, 3]]


def test_the_order_of_parts_does_not_matter() -> None:
    parts = [some("bd", (0.1, 0.2)), some("ac", (0.3, 0.4))]
    for joined in (PseudoLabels.join(parts), PseudoLabels.join(parts[::-1])):
        assert joined.ids == ("a", "b", "c", "d")
        assert joined.confidence.tolist() == pytest.approx([0.3, 0.1, 0.4, 0.2])
        assert joined.masks == (b"\0\0", b"\0\0", b"\1\0", b"\1\0")
    assert PseudoLabels.join([]).ids == ()


# In the store


def test_labels_are_read_as_they_were_written(root: Store) -> None:
    labels = some()
    write_labels(root, 3, labels, "a" * 64)
    assert [has_labels(root, 3, "a" * 64), has_labels(root, 3, "b" * 64), has_labels(root, 2, "a" * 64)] == [
        True,
        False,
        False,
    ]
    read = read_labels(root, 3)
    assert (read.ids, read.masks) == (labels.ids, labels.masks)
    np.testing.assert_array_equal(read.confidence, labels.confidence)
    with pytest.raises(NotFoundError):
        read_labels(root, 2)
    root.put("pseudo-labels/fold-3.parquet", b"junk")
    with pytest.raises(IntegrityError, match=r"pseudo-labels/fold-3\.parquet"):
        read_labels(root, 3)
