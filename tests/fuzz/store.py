"""A small store with one of each object that saltray keeps, by its own writers."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ray.train import Checkpoint
from samples import metrics, publish_models
from tile_samples import write_whole_fold

from saltray.config import (
    ClusterConfig,
    Config,
    FoldConfig,
    ModelConfig,
    PretrainConfig,
    SearchConfig,
    TrainConfig,
    choice,
    loguniform,
)
from saltray.data.all_images import load_all_images
from saltray.data.packing import load_tiles
from saltray.data.synthetic import write_dataset
from saltray.data.tiles import TileIndex
from saltray.distributed.checkpoints import Upload
from saltray.ensemble.publishing import FoldModel
from saltray.runs.history import EpochRecord, History
from saltray.runs.layout import checkpoint_folder
from saltray.runs.pretraining import create_pretraining, write_pretraining
from saltray.runs.run import create_run
from saltray.search.results import RangeTestRecord, write_best, write_table
from saltray.search.spec import SearchSpec
from saltray.search.trials import create_search, create_trial, finish_trial
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.uri import open_store
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState

FOLDS, EPOCHS = 2, 3
DATA = "datasets/tiles"
SEARCH = SearchConfig(
    name="s1",
    trials=3,
    epochs=EPOCHS,
    space={"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([4, 8]), "model.is_deconv": choice([True])},
)


def config_of(root: Store) -> Config:
    """Of run r1."""
    return Config(
        data=DATA,
        store=root.uri,
        folds=FoldConfig(count=FOLDS),
        model=ModelConfig(encoder_width=4, num_filters=2),
        train=TrainConfig(input_size=128, epochs=EPOCHS, batch_size=4, precision="fp32"),
        cluster=ClusterConfig(gpus_per_worker=0),
    )


def spec_of(root: Store) -> SearchSpec:
    """Of search s1."""
    return SearchSpec.create(config_of(root), SEARCH)


def state_of(root: Store) -> FitState:
    """Of a fold before its first step."""
    return FitState.create(config_of(root), ProcessGroup(rank=0, size=1, device=torch.device("cpu")))


def make_store(folder: Path) -> Store:
    """Run r1 that is finished, its ensemble, a pretraining, a search, and packed tiles.

    Of the search's trials the first has ended, the second runs, and the third has run all epochs without a result.
    """
    root = open_store(str(folder / "store"))
    write_dataset(folder / "tiles", tiles=8, test_tiles=0)
    tiles, dataset = load_tiles(str(folder / "tiles"), root)
    for entry in list(root.list(f"datasets/{dataset.name}")):
        root.put(entry.key.replace(f"datasets/{dataset.name}", DATA), root.get(entry.key))
    home, config, fold_of = root.sub("runs/r1"), config_of(root), np.arange(len(tiles)) % FOLDS
    models = []
    with RunLock(home, "run r1"):
        create_run(
            home,
            config,
            tiles=TileIndex.of(tiles.ids, tiles.masks),
            fold_of=fold_of,
            dataset=dataset,
            initial_weights=None,
            search_provenance=None,
        )
        for fold in range(FOLDS):
            records = write_job(home, f"fold-{fold}", state_of(root))
            held_out = tiles.select(np.flatnonzero(fold_of == fold))
            probabilities = np.full(held_out.images.shape, 0.25, np.float16)
            result = write_whole_fold(
                home.sub(f"fold-{fold}"), fold, held_out, state_of(root).ema, probabilities, records
            )
            key = f"runs/r1/fold-{fold}/model.safetensors"
            models.append(FoldModel(fold=fold, key=key, sha256=result.weights_sha256, score=result.score))
    publish_models(root, config, models, dataset)
    pretrained = root.sub("pretrained/p1")
    create_pretraining(pretrained, config, PretrainConfig(), load_all_images(DATA, root), None)
    write_pretraining(pretrained, config, state_of(root).ema, records)
    search, spec = root.sub("searches/s1"), spec_of(root)
    create_search(search, spec, dataset, None)
    ended = create_trial(search, 0, {"optim.lr": 0.001, "train.batch_size": 4, "model.is_deconv": True})
    running = create_trial(search, 1, {"optim.lr": 0.002, "train.batch_size": 8, "model.is_deconv": True})
    whole = create_trial(search, 2, {"optim.lr": 0.003, "train.batch_size": 8, "model.is_deconv": True})
    ended = replace(ended, status="finished", epochs=write_job(search, ended.name, state_of(root)))
    finish_trial(search, ended)
    write_job(search, running.name, state_of(root), epochs=2)
    write_job(search, whole.name, state_of(root))
    write_table(search, [ended, running])
    write_best(search, spec, ended, 2)
    test = RangeTestRecord(
        rates=(1e-4, 1e-3, 1e-2), losses=(1.0, 0.9, 2.0), smooth=(1.0, 0.8, 1.5), suggestion=1e-3, config=config
    )
    search.put_record("range-test.json", test)
    return root


def write_job(parent: Store, job: str, state: FitState, epochs: int = EPOCHS) -> tuple[EpochRecord, ...]:
    """The history of a fold or trial, and its checkpoints after each epoch but the last."""
    with History(parent.sub(job)) as history:
        history.note("runs on 10.0.0.1")
        for epoch in range(1, epochs + 1):
            history.append(metrics(epoch))
            state.epoch = state.step = epoch
            if epoch < EPOCHS:
                with tempfile.TemporaryDirectory() as local:
                    upload = Upload(parent, job, epoch, [state.snapshot()], tuple(history.records))
                    upload(Checkpoint(local), checkpoint_folder(epoch))
    return history.epochs
