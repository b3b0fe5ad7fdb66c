"""The weights that training starts from: a file, an ensemble's members, and what a held-out tile was trained with."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from samples import dataset, ensemble_manifest

from saltray.config import Config, FoldConfig, ModelConfig, PseudoLabelConfig, TrainConfig
from saltray.data.folds import assign_folds
from saltray.data.tiles import TileIndex
from saltray.ensemble.manifest import Member, PseudoLabelsProvenance, WeightsProvenance
from saltray.errors import ConfigError, EnsembleError, IntegrityError, ModelError
from saltray.runs.initial_weights import InitialWeights, Origins, check_unseen, origins_before, read_initial_weights
from saltray.runs.records import RunManifest
from saltray.runs.run import create_run
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.training.state import initial_model

THIN = ModelConfig(num_filters=1, encoder_width=1)
OLD, NEW = "a" * 64, "b" * 64
"""Digests of data sets."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def root(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def some_tiles(ids: str) -> TileIndex:
    masks = np.zeros((len(ids), 2, 3), np.uint8)
    masks[::2, 0] = 1
    return TileIndex.of(tuple(ids), masks)


def config_of(weights: str | None = None, *, folds: int = 2, seed: int = 0, model: ModelConfig = THIN) -> Config:
    return Config(
        data="d", folds=FoldConfig(count=folds), model=replace(model, weights=weights), train=TrainConfig(seed=seed)
    )


def publish(
    root: Store,
    name: str,
    ids: str,
    *,
    digest: str = OLD,
    version: str = "v1",
    initial: WeightsProvenance | None = None,
    labels: PseudoLabelsProvenance | None = None,
    seed: int = 5,
) -> str:
    """A run of two folds and its ensemble, trained on the tiles of these ids; its URI."""
    config = replace(config_of(), run=name)
    tiles = some_tiles(ids)
    create_run(
        root.sub(f"runs/{name}"),
        config,
        tiles=tiles,
        fold_of=assign_folds(tiles, config.folds),
        dataset=dataset(digest),
        initial_weights=None,
        search_provenance=None,
        weights_provenance=initial,
        pseudo_labels=labels,
    )
    home, members = root.sub(f"ensembles/{name}/{version}"), []
    for fold in range(2):
        data = save(initial_model(config_of(seed=seed + fold)).state_dict())
        home.put(f"fold-{fold}.safetensors", data)
        root.put(f"runs/{name}/fold-{fold}/model.safetensors", data)
        sha256 = hashlib.sha256(data).hexdigest()
        members.append(Member(fold=fold, key=f"fold-{fold}.safetensors", sha256=sha256, score=0.5))
    manifest = ensemble_manifest(
        name=name,
        version=version,
        run=name,
        members=tuple(members),
        dataset=digest,
        config=config,
        initial_weights=initial,
        pseudo_labels=labels,
    )
    home.put_record("manifest.json", manifest)
    return f"{root.uri}/ensembles/{name}"


def labels_of(uri: str, members: tuple[int, ...] = (0, 1)) -> PseudoLabelsProvenance:
    return PseudoLabelsProvenance(uri=uri, members=members, sha256=(OLD,) * len(members), images=OLD, tiles=3)


def read(config: Config, before: WeightsProvenance | None = None) -> InitialWeights:
    initial = read_initial_weights(config, before)
    assert initial is not None
    return initial


def is_of(weights: Any, seed: int) -> bool:
    model = initial_model(config_of(seed=seed)).state_dict()
    return all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in model.items())


def check(initial: InitialWeights, ids: str, fold_of: Sequence[int] | NDArray[np.int64], digest: str = NEW) -> None:
    check_unseen(initial.provenance, some_tiles(ids), np.array(fold_of), dataset(digest))


def split_of(ids: str) -> NDArray[np.int64]:
    tiles = some_tiles(ids)
    return assign_folds(tiles, FoldConfig(count=2))


# What is read


def test_none_are_given() -> None:
    assert read_initial_weights(config_of()) is None


def test_a_file_is_for_all_folds_and_its_digest_is_kept(tmp_path: Path) -> None:
    data = save(initial_model(config_of(seed=9)).state_dict())
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    initial = read(config_of(str(path)))
    assert initial.provenance == WeightsProvenance(uri=str(path), sha256=(hashlib.sha256(data).hexdigest(),))
    assert len(initial.by_fold) == 2
    assert initial.by_fold[0] is initial.by_fold[1]
    assert is_of(initial.by_fold[0], 9)


def test_each_fold_has_its_own_member_and_more_folds_begin_again(root: Store) -> None:
    uri = publish(root, "e", "abcd")
    initial = read(config_of(uri, folds=3))
    manifest = root.get_json("ensembles/e/v1/manifest.json")
    digests = [member["sha256"] for member in manifest["members"]]
    assert initial.provenance == WeightsProvenance(
        uri=f"{uri}/v1", sha256=(digests[0], digests[1], digests[0]), members=(0, 1, 0)
    )
    assert [is_of(weights, 5 + fold) for weights, fold in zip(initial.by_fold, (0, 1, 0), strict=True)] == [True] * 3
    assert len({initial.digest, read(config_of(uri)).digest}) == 2


def test_the_version_of_an_earlier_command_is_taken_again(root: Store) -> None:
    uri = publish(root, "e", "abcd")
    first = read(config_of(uri))
    publish(root, "e", "abcd", version="v2", seed=7)
    assert read(config_of(uri)).provenance.uri == f"{uri}/v2"
    again = read(config_of(uri), first.provenance)
    assert (again.provenance, again.digest) == (first.provenance, first.digest)


def test_what_an_earlier_command_started_from_is_in_its_manifest(root: Store) -> None:
    home = root.sub("runs/new")
    config = config_of("somewhere")
    assert origins_before(home, RunManifest, config) == Origins()
    origin = WeightsProvenance(uri="somewhere/v1", sha256=(OLD,), members=(0,))
    labels = labels_of("there/v1")
    tiles = some_tiles("ab")
    create_run(
        home,
        config,
        tiles=tiles,
        fold_of=np.array([0, 1]),
        dataset=dataset(),
        initial_weights=NEW,
        search_provenance=None,
        weights_provenance=origin,
        pseudo_labels=labels,
    )
    assert origins_before(home, RunManifest, config) == Origins(weights=origin, pseudo_labels=labels)
    elsewhere = replace(config_of("elsewhere"), pseudo_labels=PseudoLabelConfig(ensemble="elsewhere"))
    assert origins_before(home, RunManifest, elsewhere) == Origins()


def test_another_network_is_told_by_its_settings(root: Store) -> None:
    uri = publish(root, "e", "abcd")
    with pytest.raises(ModelError) as caught:
        read(config_of(uri, model=ModelConfig(num_filters=2, encoder_width=1)))
    assert str(caught.value) == (
        f"ensemble {uri}/v1 is of another network; use its model.num_filters 1, or other weights"
    )


def test_a_member_that_is_damaged_or_missing_and_no_ensemble(root: Store) -> None:
    uri = publish(root, "e", "abcd")
    root.put("ensembles/e/v1/fold-1.safetensors", b"junk")
    with pytest.raises(IntegrityError, match=r"fold-1\.safetensors"):
        read(config_of(uri))
    with pytest.raises(EnsembleError, match=f"no complete ensemble at {root.uri}/ensembles/x"):
        read(config_of(f"{root.uri}/ensembles/x"))


# What a held-out tile was trained with


def test_the_same_tiles_in_the_same_split_are_taken(root: Store) -> None:
    initial = read(config_of(publish(root, "e", "abcdef")))
    check(initial, "abcdef", split_of("abcdef"), digest=OLD)
    check(initial, "abcdef", split_of("abcdef"))  # known from the run
    root.delete_prefix("runs/e")
    check(initial, "abcdef", split_of("abcdef"), digest=OLD)


@pytest.mark.parametrize("digest", [OLD, NEW], ids=["the same data", "some of the tiles"])
def test_another_split_is_refused(root: Store, digest: str) -> None:
    uri = publish(root, "e", "abcdef")
    with pytest.raises(ConfigError) as caught:
        check(read(config_of(uri)), "abcdef", 1 - split_of("abcdef"), digest=digest)
    assert split_of("abcdef").tolist() == [1, 1, 1, 0, 1, 0]
    assert str(caught.value) == (
        f"fold 0 holds out 4 tiles that the model of fold 0 in {uri}/v1 was trained on (a, b, c and 1 more), so its "
        "score would be too good; use its tiles and its split (folds.count 2, folds.scheme coverage, folds.seed 0), or "
        "weights that have seen no masks, such as those of `saltray pretrain`"
    )


def test_one_tile_is_enough_to_refuse_and_new_tiles_are_not(root: Store) -> None:
    initial = read(config_of(publish(root, "e", "abcdef")))
    old = dict(zip("abcdef", split_of("abcdef").tolist(), strict=True))
    check(initial, "abcdefxyz", [*old.values(), 0, 1, 0])
    moved = [1 - old["a"], *list(old.values())[1:], 0]
    with pytest.raises(ConfigError, match=r"holds out 1 tile that the model of fold \d in .* was trained on \(a\)"):
        check(initial, "abcdefx", moved)


def test_other_tiles_may_have_any_split(root: Store) -> None:
    initial = read(config_of(publish(root, "e", "abcdef"), folds=5))
    check(initial, "uvwxyz", [0, 1, 2, 3, 4, 0])


def test_more_folds_of_the_same_tiles_are_refused(root: Store) -> None:
    initial = read(config_of(publish(root, "e", "abcdef"), folds=3))
    with pytest.raises(ConfigError, match=r"fold \d holds out"):
        check(initial, "abcdef", [0, 1, 2, 0, 1, 2], digest=OLD)


def test_what_the_ensemble_itself_started_from_counts(root: Store) -> None:
    """Trained on a to f, then on others, and now on a to f again."""
    first = read(config_of(publish(root, "e", "abcdef")))
    second = read(config_of(publish(root, "f", "uvwxyz", digest=NEW, initial=first.provenance)))
    check(second, "abcdef", split_of("abcdef"), digest=OLD)
    with pytest.raises(ConfigError, match="that the model of fold 0 in .*ensembles/e/v1 was trained on"):
        check(second, "abcdef", 1 - split_of("abcdef"), digest=OLD)


def test_what_labelled_tiles_for_the_ensemble_counts(root: Store) -> None:
    """Trained on other tiles, but also on test tiles with the labels of models that were trained on a to f."""
    uri = publish(root, "e", "abcdef")
    second = read(config_of(publish(root, "f", "uvwxyz", digest=NEW, labels=labels_of(f"{uri}/v1"))))
    check(second, "abcdef", split_of("abcdef"), digest=OLD)
    with pytest.raises(ConfigError, match="that the model of fold 0 in .*ensembles/e/v1 was trained on"):
        check(second, "abcdef", 1 - split_of("abcdef"), digest=OLD)
    crossed = read(config_of(publish(root, "g", "uvwxyz", digest=NEW, labels=labels_of(f"{uri}/v1", (1, 0)))))
    with pytest.raises(ConfigError, match="fold 0 holds out .* that the model of fold 1 in .*ensembles/e/v1 was"):
        check(crossed, "abcdef", split_of("abcdef"), digest=OLD)


def test_labels_of_another_split_are_refused(root: Store) -> None:
    labels = labels_of(f"{publish(root, 'e', 'abcdef')}/v1")
    tiles = some_tiles("abcdef")
    check_unseen(labels, tiles, split_of("abcdef"), dataset(OLD))
    with pytest.raises(ConfigError, match=r"fold 0 holds out .* folds\.seed 0\), or another pseudo_labels\.ensemble"):
        check_unseen(labels, tiles, 1 - split_of("abcdef"), dataset(OLD))
    with pytest.raises(ConfigError, match="fold 0 holds out 2 tiles that the model of fold 1"):
        check_unseen(labels_of(labels.uri, (1, 0)), tiles, split_of("abcdef"), dataset(OLD))


@pytest.mark.parametrize("key", ["ensembles/e/v1/fold-0.safetensors", "runs/e/fold-0/model.safetensors"])
def test_the_model_of_one_fold_is_not_for_the_others(root: Store, key: str) -> None:
    publish(root, "e", "abcdef")
    initial = read(config_of(f"{root.uri}/{key}"))
    assert initial.provenance.members == (0, 0)
    check(initial, "uvwxyz", [0, 1] * 3)
    told = r"fold 1 holds out 4 tiles that the model of fold 0 in .* start each fold from its own model, by --model\.w"
    with pytest.raises(ConfigError, match=told):
        check(initial, "abcdef", split_of("abcdef"), digest=OLD)


def test_a_file_of_no_run_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs/mine/fold-0/best.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(save(initial_model(config_of(seed=9)).state_dict()))
    initial = read(config_of(str(path)))
    assert initial.provenance.members == ()
    check(initial, "abcdef", [0, 1] * 3)


def test_an_ensemble_of_which_nothing_tells_its_tiles_is_refused(root: Store) -> None:
    uri = publish(root, "e", "abcdef")
    initial = read(config_of(uri))
    manifest = root.get_json("runs/e/manifest.json")
    root.put_json("runs/e/manifest.json", manifest | {"dataset": "c" * 64})
    unknown = re.escape(f"nothing tells which tiles {uri}/v1 was trained on")
    with pytest.raises(ConfigError, match=f"{unknown}, as .*/runs/e is another run of the same name"):
        check(initial, "abcdef", split_of("abcdef"))
    check(initial, "abcdef", split_of("abcdef"), digest=OLD)  # as the split is known from the tiles
    root.delete_prefix("runs/e")
    with pytest.raises(ConfigError, match=f"{unknown}, as its run is gone"):
        check(initial, "abcdef", split_of("abcdef"))
