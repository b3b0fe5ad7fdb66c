"""A configuration and tiles that train in seconds."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import torch

from saltray.config import AugmentConfig, Config, ModelConfig, OptimConfig, TrainConfig
from saltray.data.tiles import Tiles
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than free cores make small tensors crawl."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def thin() -> ConfigMaker:
    """Makes a configuration of a thin network in float32; `train` are fields of TrainConfig."""

    def make(
        *,
        architecture: Literal["albunet", "unet"] = "albunet",
        augment: AugmentConfig | None = None,
        optim: OptimConfig | None = None,
        **train: object,
    ) -> Config:
        settings = {"epochs": 2, "batch_size": 8, "input_size": 64, "precision": "fp32"} | train
        return Config(
            data="unused",
            model=ModelConfig(architecture=architecture, num_filters=4, encoder_width=8),
            augment=augment or AugmentConfig(),
            optim=optim or OptimConfig(),
            train=TrainConfig(**settings),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def tiles() -> Tiles:
    """20 tiles of 40x40 with bright salt in noise; every fourth is empty."""
    draw = np.random.default_rng(0)
    masks = np.zeros((20, 40, 40), np.uint8)
    for i, mask in enumerate(masks):
        if i % 4:
            top, left = draw.integers(0, 20, 2)
            mask[top : top + 18, left : left + 15] = 1
    images = (60 + 110 * masks + draw.integers(0, 60, masks.shape)).astype(np.uint8)
    return Tiles(tuple(f"{i:03}" for i in range(20)), images, masks)


@pytest.fixture(scope="session")
def single() -> ProcessGroup:
    """One rank on the CPU."""
    return ProcessGroup.single()


@pytest.fixture(scope="session")
def tensors(tiles: Tiles, single: ProcessGroup) -> TileTensors:
    """The tiles on the CPU."""
    return TileTensors.create(tiles, single.device)
