"""A configuration and tiles that train in seconds, alone and on two ranks."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from saltray.config import AugmentConfig, Config, LateLossConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.records import to_record
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]
TwoRanks = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads slow small tensors down on a shared machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_config() -> ConfigMaker:
    """Makes a configuration of a network of few channels in float32; `train` are fields of TrainConfig."""

    def make(
        *,
        architecture: Literal["albunet", "unet"] = "albunet",
        decoder_batchnorm: bool = False,
        deep_supervision: bool = False,
        augment: AugmentConfig | None = None,
        optim: OptimConfig | None = None,
        loss: LossConfig | None = None,
        late_loss: LateLossConfig | None = None,
        **train: object,
    ) -> Config:
        settings = {"epochs": 2, "batch_size": 8, "input_size": 64, "precision": "fp32"} | train
        return Config(
            data="unused",
            model=ModelConfig(
                architecture=architecture,
                num_filters=4,
                encoder_width=8,
                decoder_batchnorm=decoder_batchnorm,
                deep_supervision=deep_supervision,
            ),
            augment=augment or AugmentConfig(),
            optim=optim or OptimConfig(),
            loss=loss or LossConfig(),
            late_loss=late_loss or LateLossConfig(),
            train=TrainConfig(**settings),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def still() -> AugmentConfig:
    """No augmentation."""
    return AugmentConfig(flip=0, rotate=0, scale=0, shift=0, brightness=0, contrast=0)


@pytest.fixture(scope="session")
def tiles() -> LabelledTiles:
    """20 tiles of 40x40 with bright salt in noise; every fourth is empty."""
    draw = np.random.default_rng(0)
    masks = np.zeros((20, 40, 40), np.uint8)
    for i, mask in enumerate(masks):
        if i % 4:
            top, left = draw.integers(0, 20, 2)
            mask[top : top + 18, left : left + 15] = 1
    images = (60 + 110 * masks + draw.integers(0, 60, masks.shape)).astype(np.uint8)
    return LabelledTiles(tuple(f"{i:03}" for i in range(20)), images, masks)


@pytest.fixture(scope="session")
def single() -> ProcessGroup:
    """One rank on the CPU."""
    return ProcessGroup.single()


@pytest.fixture(scope="session")
def tensors(tiles: LabelledTiles, single: ProcessGroup) -> TileTensors:
    """The tiles on the CPU."""
    return TileTensors.create(tiles, single.device)


@pytest.fixture(scope="session")
def two_ranks(make_config: ConfigMaker, tiles: LabelledTiles, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """What `rank_main.py` computed `alone`, and as rank `0` and `1` of a process group of two; by name."""
    folder = tmp_path_factory.mktemp("ranks")
    quick = {"architecture": "unet", "optim": OptimConfig(lr=1e-2, warmup_epochs=0, ema_decay=0.5), "batch_size": 4}
    cases = {
        # BatchNorm in every layer, so that its statistics affect the loss.
        "synchronised": make_config(**quick),
        "unsynchronised": make_config(**quick, sync_batchnorm=False),
        "albunet": make_config(),
        "defaults": make_config(decoder_batchnorm=True, deep_supervision=True),
        "nan": make_config(),
        "inpainting": make_config(),
        "deep": make_config(deep_supervision=True, late_loss=LateLossConfig(after=1, lovasz_elu=1)),
    }
    (folder / "cases.json").write_text(json.dumps({name: to_record(config) for name, config in cases.items()}))
    np.savez(folder / "tiles.npz", ids=np.array(tiles.ids), images=tiles.images, masks=tiles.masks)
    command = [sys.executable, str(Path(__file__).with_name("rank_main.py")), str(folder)]
    running = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    try:
        for process in running:
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors.decode()
    finally:
        for process in running:
            process.kill()
    return {place: torch.load(folder / f"{place}.pt") for place in ("alone", "0", "1")}
