"""All runs of a store, as their own writers left them."""

import numpy as np
import pytest
from samples import EVALUATION, dataset, metrics, publish_models
from tile_samples import write_whole_fold
from torch import nn

from saltray.config import Config, FoldConfig, ModelConfig
from saltray.data.tiles import LabelledTiles, TileIndex
from saltray.ensemble.publishing import FoldModel
from saltray.report.runs_page import OpenRun
from saltray.runs.history import EpochRecord
from saltray.runs.overview import network_text, overview
from saltray.runs.run import create_run
from saltray.storage.base import Store


def write_run(
    store: Store, tiles: LabelledTiles, name: str, *, folds: int = 2, seed: int = 0, **settings: object
) -> None:
    """A run of which so many folds are finished; of all of them, it is published."""
    config = Config(data="d", store=store.uri, run=name, folds=FoldConfig(count=2, seed=seed))
    home = store.sub(f"runs/{name}")
    index = TileIndex.of(tiles.ids, tiles.masks)
    fold_of = np.array([0, 1, 0, 1])
    create_run(
        home, config, tiles=index, fold_of=fold_of, dataset=dataset(), initial_weights=None, search_provenance=None
    )
    models = []
    for fold in range(folds):
        own = tiles.select(fold_of == fold)
        epoch = EpochRecord(**vars(metrics(3)), at=100.0)
        probabilities = np.zeros(own.images.shape, np.float16)
        result = write_whole_fold(home.sub(f"fold-{fold}"), fold, own, nn.Conv2d(1, 1, 1), probabilities, [epoch])
        key = f"runs/{name}/fold-{fold}/model.safetensors"
        models.append(FoldModel(fold=fold, key=key, sha256=result.weights_sha256, score=result.score))
    if folds == 2:
        publish_models(store, config, models, dataset(), **settings)


def test_finished_runs_and_others(store: Store, tiles: LabelledTiles) -> None:
    write_run(store, tiles, "a")
    write_run(store, tiles, "b", evaluation=None)
    write_run(store, tiles, "c", seed=1)
    write_run(store, tiles, "half", folds=1)
    write_run(store, tiles, "lost")
    store.delete_prefix("ensembles/lost")
    write_run(store, tiles, "later")
    version = store.get_json("ensembles/later/v1/manifest.json")
    store.put_json("ensembles/later/v1/manifest.json", version | {"format": 99})
    write_run(store, tiles, "torn")
    store.put("runs/torn/fold-1/result.json", b"{")
    store.put("runs/bad/manifest.json", b"{")
    store.put_json("runs/new/manifest.json", {"provenance": {"saltray": "9.9.9"}})
    found = overview(store)
    assert found.store == store.uri
    a, b, c = found.finished
    assert (a.run, a.score, a.interval, a.spread) == ("a", EVALUATION.score, EVALUATION.interval, EVALUATION.spread)
    assert (a.plain, a.baseline, a.epochs, a.folds, a.tiles, a.seconds) == (0.7123, 0.39, 3, 2, 4, 20.0)
    assert (a.ensemble, a.recipe, a.lr) == ("v1", None, Config(data="d").optim.lr)
    assert (b.run, b.score, b.interval, b.spread) == ("b", None, None, None)  # published by an older version
    assert a.comparable == b.comparable != c.comparable
    by_name = {row.run: row for row in found.others}
    assert list(by_name) == ["bad", "half", "later", "lost", "new", "torn"]
    assert by_name["half"] == OpenRun(run="half", state="stopped", done=1, count=2, told="")
    assert (by_name["lost"].done, by_name["lost"].told) == (2, "")
    assert "ensembles/later/v1/manifest.json: ensemble manifest has format 99" in by_name["later"].told
    assert "runs/torn/fold-1/result.json: not JSON" in by_name["torn"].told
    assert "runs/bad/manifest.json: not JSON" in by_name["bad"].told
    assert "was made by another version of saltray, 9.9.9" in by_name["new"].told
    assert [by_name[name].state for name in ("bad", "new")] == ["corrupted", "other version"]


def test_an_empty_store(store: Store) -> None:
    found = overview(store)
    assert (found.finished, found.others) == ([], [])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (ModelConfig(num_filters=7), "albunet, 7 filters"),
        (ModelConfig(encoder="resnet50"), "albunet (resnet50), 32 filters"),
    ],
)
def test_a_network_in_words(model: ModelConfig, text: str) -> None:
    assert network_text(model) == text
