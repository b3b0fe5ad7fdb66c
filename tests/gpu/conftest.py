"""The device of the tests that need a GPU, tiles and settings for it."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from saltray.config import Config, ModelConfig, OptimConfig, TrainConfig
from saltray.data.tiles import LabelledTiles

DRY = bool(os.environ.get("SALTRAY_GPU_DRY"))
"""Run what a CPU can of these tests on it; the campaign's dry run does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU these tests are skipped; those that a CPU can run take the fixture `device`."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        is_here = item.path.parent == item.config.rootpath / "tests/gpu"
        if is_here and item.get_closest_marker("gpu") and not (DRY and "device" in getattr(item, "fixturenames", ())):
            item.add_marker(skip)


@pytest.fixture
def device() -> torch.device:
    """The GPU; the CPU in a dry run."""
    return torch.device("cpu" if DRY else "cuda")


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """Makes settings of a thin network; keyword arguments are fields of TrainConfig."""

    def make(**train: Any) -> Config:
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "input_size": 64}
        return Config(
            data="unused",
            model=ModelConfig(num_filters=4, encoder_width=8),
            optim=OptimConfig(warmup_epochs=0),
            train=TrainConfig(**settings | train),
        )

    return make


@pytest.fixture(scope="session")
def salt() -> LabelledTiles:
    """24 tiles of 40x40 with bright salt in noise."""
    draw = np.random.default_rng(0)
    masks = np.zeros((24, 40, 40), np.uint8)
    for at, mask in enumerate(masks):
        if at % 4:
            top, left = draw.integers(0, 20, 2)
            mask[top : top + 18, left : left + 15] = 1
    images = (60 + 110 * masks + draw.integers(0, 60, masks.shape)).astype(np.uint8)
    return LabelledTiles(tuple(f"{at:03}" for at in range(24)), images, masks)
