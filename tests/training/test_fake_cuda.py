"""The step on a GPU that is not there: no CPU tensor meets a CUDA one, and nothing reads a value back.

torch's FakeTensorMode computes devices, shapes and types alone, and raises where they do not fit or a value is asked
for: `.item()`, `bool(tensor)`, `nonzero()`. The backward pass needs a real context, so it is left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from saltray.config import Config, LossConfig, ModelConfig, PretrainConfig, TrainConfig
from saltray.models.build import build_model
from saltray.models.network import Output
from saltray.training import precision
from saltray.training.ema import WeightAverager
from saltray.training.inference import evaluating, tile_logits
from saltray.training.losses import tile_losses
from saltray.training.metrics import Counts
from saltray.training.precision import autocast, resolve_precision
from saltray.training.tasks import Inpainting, Segmentation, Task

CUDA = torch.device("cuda:0")
EVERY_TERM = LossConfig(bce=1, dice=1, lovasz=1, lovasz_elu=1, focal=1)
PARTS = {"decoder_batchnorm": True, "scse": True, "hypercolumn": True, "deep_supervision": True}


@pytest.fixture(autouse=True)
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU with bfloat16, on which tensors have no values."""
    monkeypatch.setattr(precision, "_has_bf16", lambda device: device.type == "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    resolve_precision.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield
    resolve_precision.cache_clear()


def config_of(
    architecture: Literal["albunet", "ternausnet", "unet"], arithmetic: Literal["bf16", "fp32"], resize: int = 1
) -> Config:
    """Every part of a decoder, and every term of the loss."""
    model = ModelConfig(architecture=architecture, num_filters=4, encoder_width=8, **PARTS)
    if architecture == "unet":
        model = replace(model, decoder_batchnorm=False, in_channels=1)
    train = TrainConfig(input_size=128, precision=arithmetic, resize=resize)
    return Config(data="unused", model=model, loss=EVERY_TERM, train=train)


def network_of(config: Config) -> nn.Module:
    with CUDA:
        return build_model(config.model)


def batch(tile: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Images, masks and keys of four tiles."""
    images, masks = (torch.zeros(4, tile, tile, dtype=torch.uint8, device=CUDA) for _ in range(2))
    return images, masks, torch.zeros(4, dtype=torch.int64, device=CUDA)


def loss_of(config: Config, task: Task) -> Tensor:
    network = network_of(config).train()
    inputs, targets = task.batch(*batch(), epoch=3)
    with autocast(config.train.precision, CUDA):
        outputs = network(inputs)
    return task.loss(outputs, targets, epoch=3)


@pytest.mark.parametrize("architecture", ["albunet", "ternausnet", "unet"])
@pytest.mark.parametrize("arithmetic", ["bf16", "fp32"])
def test_a_batch_stays_on_the_gpu_up_to_its_loss(
    architecture: Literal["albunet", "ternausnet", "unet"], arithmetic: Literal["bf16", "fp32"]
) -> None:
    config = config_of(architecture, arithmetic, resize=2)
    loss = loss_of(config, Segmentation(config))
    assert isinstance(loss, FakeTensor)
    assert (loss.device, loss.dtype, loss.shape, loss.requires_grad) == (CUDA, torch.float32, (), True)


def test_a_batch_is_autocast_on_the_gpu() -> None:
    config = config_of("albunet", "bf16")
    with autocast("bf16", CUDA):
        outputs = network_of(config).train()(torch.zeros(2, 1, 128, 128, device=CUDA))
    assert isinstance(outputs, Output)
    assert outputs.logits.dtype == torch.bfloat16


def test_hidden_patches_stay_on_the_gpu() -> None:
    config = config_of("albunet", "bf16")
    plain = replace(config, model=replace(config.model, deep_supervision=False))
    assert loss_of(plain, Inpainting(plain, PretrainConfig())).device == CUDA


def test_the_average_of_the_weights_stays_on_the_gpu() -> None:
    config = config_of("albunet", "bf16")
    average, network = network_of(config).requires_grad_(False), network_of(config)
    WeightAverager(average, network, 0.9).update(3)


@pytest.mark.parametrize("resize", [1, 2])
def test_validation_reads_nothing_back_before_its_end(resize: int) -> None:
    config = config_of("albunet", "bf16", resize)
    images, masks, _ = batch()
    network = network_of(config)
    with evaluating(network):
        logits = tile_logits(network, images, config.train.input_size, config.train.precision, resize)
        counts = Counts.zero(CUDA) + Counts.of(logits.sigmoid(), masks, 0.5)
        loss = tile_losses(logits[:, None], masks[:, None], config.loss).double().sum()
    assert (logits.device, counts.sums.device, loss.device) == (CUDA, CUDA, CUDA)
    with pytest.raises(DataDependentOutputException):
        _ = counts.score


def test_a_value_that_is_read_back_and_a_tensor_elsewhere_are_found() -> None:
    loss = F.relu(torch.zeros(2, device=CUDA))
    for read in (lambda: loss.sum().item(), lambda: bool(loss.sum() > 0), loss.tolist, lambda: loss[loss > 0]):
        with pytest.raises(Exception, match=r"item|_local_scalar_dense|nonzero|dynamic"):
            read()
    with pytest.raises(RuntimeError, match="device"):
        _ = loss + torch.zeros(2)
