"""The predictions of a fold's held-out tiles: whole, in order and what they cost, however they are divided."""

from collections.abc import Callable

import numpy as np
import pytest
import ray
import torch

from saltray.config import Config
from saltray.data.tiles import LabelledTiles
from saltray.distributed import held_out_predictor
from saltray.distributed.held_out_predictor import HeldOutPredictor
from saltray.distributed.job_setup import JobTiles, set_up_fold
from saltray.distributed.jobs import Job
from saltray.training.inference import predict_both_ways
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_pool import TilePart


@pytest.mark.parametrize("rows", [1, 10**6])
def test_all_tiles_are_predicted_and_scored_a_part_at_a_time(
    make_job: Callable[..., Job], small: Callable[..., Config], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(held_out_predictor, "part_rows", lambda height, width: rows)
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 2, (26, 40, 40)).astype(np.uint8)
    tiles = LabelledTiles(tuple(f"{at:02}" for at in range(26)), masks * 90 + 60, masks)
    job, group = make_job(1, tiles=(TilePart.of(tiles),), fold_of=np.arange(26) % 2), ProcessGroup.single()
    config = small("tiles", "store")
    fold = set_up_fold(job, 1, group, JobTiles.open(job, group))
    predictor = HeldOutPredictor(fold, config, group)
    assert predictor.write(job.home, (1,)) is not None
    images, truth, _ = fold.valid.batch(torch.arange(13))
    expected, alone = predict_both_ways(
        fold.state.ema,
        images,
        input_size=config.train.input_size,
        batch_size=config.train.batch_size,
        precision=config.train.precision,
    )
    table = job.home.get_table("oof.parquet")
    assert table["id"].to_pylist() == list(tiles.ids[1::2])
    found = np.stack([np.frombuffer(row, np.float16) for row in table["probability"].to_pylist()])
    np.testing.assert_allclose(found.reshape(expected.shape), expected.numpy(), atol=1e-3)
    cost = predictor.cost()
    iou = ((alone > 0.5) & (truth > 0)).sum((1, 2)) / ((alone > 0.5) | (truth > 0)).sum((1, 2))
    by_hand = sum((iou > step / 20).float().mean() for step in range(10, 20)) / 10
    assert cost.score_without_tta == pytest.approx(float(by_hand), abs=1e-3)
    assert (sum(cost.gains), cost.device) == (13, "CPU")
    assert cost.seconds > 0
