"""A replica with the models: whose version predicts each tile of a batch. `test_serving` has the rest, on Ray."""

from dataclasses import replace

import numpy as np
import pytest

from saltray.distributed.model_replica import Served, predict_tiles
from saltray.ensemble.load import Ensemble
from saltray.ensemble.postprocess import Postprocess

TILES = np.random.default_rng(0).integers(0, 256, (3, 101, 101), np.uint8)


def test_a_batch_of_two_versions_gives_each_tile_its_own(untrained: str) -> None:
    first = Served("v1", Ensemble.load(untrained, device="cpu"))
    manifest = replace(first.manifest, version="v2", postprocess=Postprocess(threshold=0.0))
    second = Served("v2", Ensemble(manifest, first.ensemble.models, first.ensemble.device))
    masked = predict_tiles([(first, TILES[0]), (second, TILES[1]), (first, TILES[2])], tta=True)
    assert [answer.ensemble for answer in masked] == ["r1 v1", "r1 v2", "r1 v1"]
    assert masked[1].salt.all()
    for answer, tile in zip(masked, TILES, strict=False):
        assert answer.mean_probability == pytest.approx(first.ensemble.predict(tile[None]).mean(), abs=1e-6)
