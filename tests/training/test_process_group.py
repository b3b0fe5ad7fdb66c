"""Two real processes over gloo give what one gives."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saltray.config import Config, OptimConfig, to_dict
from saltray.data.tiles import Tiles

ConfigMaker = Callable[..., Config]
Results = dict[str, dict[str, Any]]
TIMES = {"seconds": 0, "images_per_second": 0}


@pytest.fixture(scope="module")
def results(thin: ConfigMaker, tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What came of each case alone, on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    quick = {"architecture": "unet", "optim": OptimConfig(lr=1e-2, warmup_epochs=0, ema_decay=0.5), "batch_size": 4}
    cases = {
        # BatchNorm in every layer, so that its statistics show in the loss.
        "synchronised": {"config": to_dict(thin(**quick)), "poisoned": False},
        "apart": {"config": to_dict(thin(**quick, sync_batchnorm=False)), "poisoned": False},
        "albunet": {"config": to_dict(thin()), "poisoned": False},
        "poisoned": {"config": to_dict(thin()), "poisoned": True},
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    np.savez(folder / "tiles.npz", ids=np.array(tiles.ids), images=tiles.images, masks=tiles.masks)
    command = [sys.executable, str(Path(__file__).with_name("rank_main.py")), str(folder)]
    running = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    for process in running:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors.decode()
    return {place: torch.load(folder / f"{place}.pt") for place in ("alone", "0", "1")}


def losses(case: dict[str, Any]) -> list[float]:
    return [epoch[name] for epoch in case["metrics"] for name in ("loss", "valid_loss")]


@pytest.mark.parametrize("case", ["synchronised", "albunet"])
def test_two_ranks_train_as_one(results: Results, case: str) -> None:
    alone, first, second = (results[place][case] for place in ("alone", "0", "1"))
    assert len(alone["metrics"]) == 2
    for one, two, other in zip(alone["metrics"], first["metrics"], second["metrics"], strict=True):
        assert {**two, **TIMES} == {**other, **TIMES}
        assert (one["epoch"], one["lr"]) == (two["epoch"], two["lr"])
        # Adam turns the rounding of gradients near zero into whole steps, so equal is equal within this much.
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
        assert one["valid_loss"] == pytest.approx(two["valid_loss"], rel=1e-3)
        assert (one["iou"], one["dice"]) == pytest.approx((two["iou"], two["dice"]), abs=5e-3)
        assert one["score"] == pytest.approx(two["score"], abs=0.03)  # two of the 70 comparisons
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())


def test_two_ranks_end_with_the_weights_of_one(results: Results) -> None:
    alone, first = (results[place]["albunet"]["model"] for place in ("alone", "0"))
    assert alone.keys() == first.keys()
    for key, value in alone.items():
        assert float((first[key] - value).abs().double().mean()) < 1e-4, key
    apart = results["0"]["apart"]["model"]
    assert apart.keys() == results["0"]["synchronised"]["model"].keys()


def test_batchnorm_of_each_rank_alone_gives_other_numbers_yet_one_model(results: Results) -> None:
    alone, first, second = (results[place]["apart"] for place in ("alone", "0", "1"))
    assert losses(alone) == losses(results["alone"]["synchronised"])
    assert all(
        one != pytest.approx(two, rel=3e-3) for one, two in zip(losses(alone)[2:], losses(first)[2:], strict=True)
    )
    assert losses(first) == losses(second)
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())


def test_one_ranks_nan_stops_all(results: Results) -> None:
    for place in ("alone", "0", "1"):
        message = results[place]["poisoned"]["error"]
        assert "in epoch 1, step 2 of 2, at a learning rate of 0.001; lower optim.lr (it is 0.001)" in message
