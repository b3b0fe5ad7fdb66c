"""What a run's page shows is what its tiles, its predictions and its records give."""

import numpy as np
import pytest

from saltray.commands.run_page import best_to_worst, overlaps, view_tiles
from saltray.data.packing import packed_tiles
from saltray.ensemble.manifest import EnsembleManifest
from saltray.runs.out_of_fold import open_out_of_fold
from saltray.runs.records import FoldResult, RunManifest, Split
from saltray.runs.run import fold_result
from saltray.storage.base import Store
from saltray.training.metrics import TileCounts


def test_tiles_are_those_that_were_asked_for_in_their_order(written_run: Store) -> None:
    home = written_run.sub("runs/r1")
    record = home.get_record("manifest.json", RunManifest)
    manifest = EnsembleManifest.from_json(written_run.get_json("ensembles/r1/v1/manifest.json"))
    tiles = packed_tiles(record.dataset, record.config.data, written_run)
    assert tiles is not None
    split = home.get_record("folds.json", Split).fold_of
    fold_of = np.array([split[tile] for tile in tiles.ids])
    results = [result for fold in range(3) if isinstance(result := fold_result(home, fold), FoldResult)]
    with open_out_of_fold(home, results, tiles, fold_of) as predictions:
        views = view_tiles(predictions, manifest.postprocess, {7: None, 2: "best"})
        examples = best_to_worst(predictions, manifest.postprocess, *overlaps(predictions, manifest.postprocess))
        (both,) = [part for part in predictions.parts() if len(part.positions) == 12]
    assert [(view.tile, view.rank, view.fold) for view in views] == [
        (tiles.ids[7], None, fold_of[7]),
        (tiles.ids[2], "best", fold_of[2]),
    ]
    masks = manifest.postprocess.apply(both.probabilities, both.tiles.images)
    tenths = TileCounts.of(masks.astype(np.float32), both.tiles.masks, (0.5,)).tenths[:, 0]
    for view, place in zip(views, (7, 2), strict=True):
        assert view.score == tenths[place] / 10
        assert view.predicted == pytest.approx(masks[place].mean())
        assert view.labelled == pytest.approx(both.tiles.masks[place].mean())
    ious = [view.iou for view in examples]
    assert ious == sorted(ious, reverse=True)
    assert [view.rank for view in examples] == sorted(
        (str(view.rank) for view in examples), key=["best", "median", "worst"].index
    )
