"""The inputs of train, tune and range_test: read, split and checked once, in the driver."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import saltray
from saltray.commands.prepare import open_for_writing, prepare, share
from saltray.config import ClusterConfig, Config, FoldConfig
from saltray.data.raw import read_tiles
from saltray.data.tiles import pack_masks
from saltray.ensemble.manifest import WeightsProvenance
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, DataError, ModelError, StorageError
from saltray.runs.initial_weights import InitialWeights
from saltray.storage.base import Store
from saltray.storage.files import sha256_of
from saltray.storage.uri import open_store
from saltray.training.state import initial_model

Small = Callable[..., Config]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"{tmp_path}/store")


@pytest.fixture
def config(small: Small, tiles_folder: Path, store: Store) -> Config:
    return small(tiles_folder, store.uri)


def test_the_tiles_are_packed_into_the_store_and_split(config: Config, store: Store, tiles_folder: Path) -> None:
    prepared = prepare(config, store)
    assert prepared.tiles.ids == read_tiles(str(tiles_folder)).ids
    assert (prepared.dataset.tiles, prepared.dataset.height) == (24, 101)
    assert store.exists(f"datasets/{prepared.dataset.name}/manifest.json")
    assert np.bincount(prepared.fold_of).tolist() == [12, 12]
    assert (prepared.initial, prepared.initial_digest, prepared.weights_provenance) == (None, None, None)
    again = prepare(replace(config, data=f"datasets/{prepared.dataset.name}"), store)
    np.testing.assert_array_equal(again.fold_of, prepared.fold_of)
    assert again.dataset == prepared.dataset


def test_too_few_tiles_for_the_folds_are_refused(config: Config, store: Store) -> None:
    with pytest.raises(ConfigError, match="folds.count is 25"):
        prepare(replace(config, folds=FoldConfig(count=25)), store)


@pytest.mark.parametrize(("architecture", "input_size", "fits"), [("albunet", 64, 128), ("unet", 96, 112)])
def test_tiles_larger_than_the_input_are_refused_before_anything_is_written(
    config: Config, store: Store, architecture: Any, input_size: int, fits: int
) -> None:
    config = replace(
        config,
        model=replace(config.model, architecture=architecture),
        train=replace(config.train, input_size=input_size),
    )
    with pytest.raises(ConfigError) as caught:
        prepare(config, store)
    assert str(caught.value) == (
        f"the tiles have 101x101 pixels, but train.input_size is {input_size}; use --train.input-size {fits}, or "
        "smaller tiles"
    )
    assert not list(store.list())
    prepare(replace(config, train=replace(config.train, input_size=fits)), store)


def test_tiles_are_enlarged_before_they_must_fit(config: Config, store: Store) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(replace(config, train=replace(config.train, resize=2)), store)
    assert str(caught.value) == (
        "the tiles have 101x101 pixels, enlarged 2 times by train.resize, but train.input_size is 128; use "
        "--train.input-size 256, or smaller tiles"
    )


def test_a_trial_that_the_tiles_do_not_fit_is_refused(config: Config, store: Store) -> None:
    variants = [replace(config, train=replace(config.train, input_size=size)) for size in (128, 64)]
    with pytest.raises(ConfigError, match="train.input_size is 64; use --train.input-size 128"):
        prepare(config, store, variants)
    assert not list(store.list())
    prepare(config, store, variants[:1])


@pytest.mark.parametrize(("ranks", "batch_size", "sync"), [(1, 1, True), (2, 2, False)])
def test_batches_that_the_network_cannot_train_on(
    config: Config, store: Store, tmp_path: Path, ranks: int, batch_size: int, sync: bool
) -> None:
    """At the bottom of this U-Net a tile is one pixel, and BatchNorm needs two values."""
    for folder in ("images", "masks"):
        (tmp_path / "tiny" / folder).mkdir(parents=True)
        for tile in range(4):
            Image.new("L", (16, 16), 255 * (tile % 2)).save(tmp_path / "tiny" / folder / f"{tile}.png")
    unet = replace(
        config,
        data=f"{tmp_path}/tiny",
        model=replace(config.model, architecture="unet"),
        train=replace(config.train, input_size=16, batch_size=batch_size, sync_batchnorm=sync),
        cluster=ClusterConfig(workers_per_fold=ranks),
    )
    with pytest.raises(ConfigError, match=r"unet cannot train on batches of 1 at train.input_size 16 \(Expected more"):
        prepare(unet, store)
    prepare(replace(unet, train=replace(unet.train, batch_size=2 * batch_size)), store)


def test_all_faults_of_the_tiles_come_before_those_of_the_settings(
    config: Config, store: Store, tmp_path: Path
) -> None:
    shutil.copytree(config.data, tmp_path / "faulty")
    images = sorted((tmp_path / "faulty/train/images").iterdir())
    for image in (images[0], images[3]):
        image.write_bytes(b"no PNG")
    with pytest.raises(DataError) as caught:
        prepare(replace(config, data=f"{tmp_path}/faulty", train=replace(config.train, input_size=64)), store)
    assert [problem.split(":")[0].rpartition("/")[2] for problem in caught.value.problems] == [
        images[0].name,
        images[3].name,
    ]


def test_given_weights_are_read_by_the_driver(config: Config, store: Store, tmp_path: Path) -> None:
    model = initial_model(replace(config, train=replace(config.train, seed=9)))
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    prepared = prepare(replace(config, model=replace(config.model, weights=str(path))), store)
    assert prepared.initial is not None
    assert prepared.weights_provenance == WeightsProvenance(uri=str(path), sha256=(sha256_of(path),))
    (weights,) = {id(each): each for each in prepared.initial.by_fold}.values()
    assert weights.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(torch.tensor(weights[name]), tensor)
    with pytest.raises(ModelError, match="nowhere"):
        prepare(replace(config, model=replace(config.model, weights="nowhere.safetensors")), store)


def test_the_digest_of_given_weights_depends_on_their_values_alone(config: Config, store: Store) -> None:
    plain = prepare(config, store)

    def digest(*weights: dict[str, Any]) -> str | None:
        initial = InitialWeights(weights, WeightsProvenance(uri="w", sha256=()))
        return replace(plain, initial=initial).initial_digest

    one = digest({"a": np.zeros(3), "b": np.ones(2)})
    assert one == digest({"b": np.ones(2), "a": np.zeros(3)})
    assert one != digest({"a": np.zeros(3), "b": np.array([1.0, 2.0])})
    assert one is not None
    assert len(one) == 64
    same, other = {"a": np.zeros(3), "b": np.ones(2)}, {"a": np.ones(3), "b": np.ones(2)}
    assert digest(same, same) == one
    assert len({one, digest(same, other), digest(other, same)}) == 3


def test_a_member_that_has_seen_what_its_fold_holds_out_is_refused(
    config: Config, store: Store, untrained: str
) -> None:
    home = resolve(untrained)
    model = read_manifest(home).config.model
    dataset = prepare(config, store).dataset
    manifest = replace(read_manifest(home), dataset=dataset.digest)
    member = store.sub("ensembles/r1/v1")
    for key in ("fold-0.safetensors", "fold-1.safetensors"):
        member.put(key, home.get(key))
    member.put_record("manifest.json", manifest)
    tuned = replace(config, model=replace(model, weights=f"{store.uri}/ensembles/r1"))
    prepared = prepare(tuned, store)
    assert prepared.weights_provenance is not None
    assert prepared.weights_provenance.members == (0, 1)
    with pytest.raises(ConfigError, match="fold 0 holds out 7 tiles that the model of fold 0 in"):
        prepare(replace(tuned, folds=FoldConfig(count=2, seed=1)), store)


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_for_writing(f"{tmp_path}/store").uri == f"{tmp_path}/store"
    (tmp_path / "file").touch()
    for uri in (f"{tmp_path}/file", f"{tmp_path}/file/store"):
        with pytest.raises(StorageError, match=f"{tmp_path}/file"):
            open_for_writing(uri)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the store here is in the working directory of this one job"):
        open_for_writing("here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("command", ["train", "tune", "pretrain", "range_test"])
def test_every_command_that_trains_looks_first(
    command: str, small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        getattr(saltray, command)(small("nowhere", tmp_path / "store"))
    assert not list(tmp_path.rglob("manifest.json"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="the store here is in the working directory of this one job"):
        getattr(saltray, command)(small(tiles_folder, "here"))
    assert not (tmp_path / "here").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_what_is_shared_is_what_was_prepared(config: Config, store: Store) -> None:
    import ray

    initial = InitialWeights(({"layer": np.arange(3.0)},) * 2, WeightsProvenance(uri="w", sha256=()))
    prepared = replace(prepare(config, store), initial=initial)
    job: Any = share(prepared, config, store)
    assert (job.config, job.parent, job.name, job.folds) == (config, store, "", ())
    np.testing.assert_array_equal(ray.get(job.fold_of), prepared.fold_of)
    parts, tiles = ray.get(list(job.tiles)), prepared.tiles.tiles()
    assert len(parts) == len(prepared.dataset.shards)
    assert [name.decode() for part in parts for name in part.ids] == list(tiles.ids)
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), tiles.images)
    np.testing.assert_array_equal(np.concatenate([part.mask_bits for part in parts]), pack_masks(tiles.masks))
    np.testing.assert_array_equal(ray.get(job.initial_weights[1])["layer"], np.arange(3.0))
