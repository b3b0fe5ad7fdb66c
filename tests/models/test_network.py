"""The base class on its own, and what holds for every architecture that a configuration can name."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from saltray.config import ModelConfig
from saltray.errors import ModelError
from saltray.models.build import build_model
from saltray.models.network import IMAGENET_MEAN, IMAGENET_STD, Network

ARCHITECTURES = get_args(get_type_hints(ModelConfig)["architecture"])


class Identity(Network):
    """Returns its normalised input as scores."""

    multiple = 8

    def segment(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(params=[(name, is_deconv) for name in ARCHITECTURES for is_deconv in (True, False)], ids=str)
def model(request: pytest.FixtureRequest) -> Network:
    architecture, is_deconv = request.param
    return build_model(
        ModelConfig(architecture=architecture, num_filters=3, encoder_width=4, is_deconv=is_deconv)
    ).eval()


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("channels", [1, 3])
def test_input_is_normalised_as_for_imagenet(channels: int) -> None:
    images = torch.rand(2, channels, 8, 16)
    result = Identity(num_classes=1)(images)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        expected = (images[:, channel if channels == 3 else 0] - mean) / std
        torch.testing.assert_close(result[:, channel], expected)


def test_several_classes_give_log_probabilities() -> None:
    images = torch.rand(2, 3, 8, 8)
    scores = Identity(num_classes=1)(images)
    probabilities = Identity(num_classes=3)(images).exp()
    torch.testing.assert_close(probabilities, scores.exp() / scores.exp().sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 64, 64), r"shape \[1, 64, 64\]; expected \[B, 1, H, W\] or \[B, 3, H, W\]"),
        (torch.zeros(1, 2, 64, 64), r"shape \[1, 2, 64, 64\]; expected"),
        (torch.zeros(1, 1, 64, 64, dtype=torch.uint8), "dtype torch.uint8; expected floats in 0..1.* / 255"),
        (torch.zeros(1, 1, 12, 64), "12x64; Identity needs multiples of 8: pad it to 16x64"),
        (torch.zeros(1, 1, 64, 31), "64x31; Identity needs multiples of 8: pad it to 64x32"),
    ],
)
def test_unsupported_inputs_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Identity(num_classes=1)(images)


def test_output_has_the_size_of_the_input(model: Network) -> None:
    height, width = model.multiple, 3 * model.multiple
    with torch.no_grad():
        assert model(torch.rand(2, 1, height, width)).shape == (2, 1, height, width)
        assert model(torch.rand(2, 3, height, width)).shape == (2, 1, height, width)


def test_half_a_multiple_is_refused(model: Network) -> None:
    side = model.multiple
    with pytest.raises(ModelError, match=f"multiples of {side}: pad it to {2 * side}x{side}"):
        model(torch.rand(1, 1, side + side // 2, side))


def test_every_parameter_gets_a_gradient(model: Network) -> None:
    model.train()(torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_ddp_takes_a_second_step(model: Network, process_group: None) -> None:
    ddp = DistributedDataParallel(model.train(), find_unused_parameters=False)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):  # the second forward pass raises if a parameter had no gradient in the first
        optimizer.zero_grad()
        ddp(torch.rand(2, 1, 64, 64)).square().mean().backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_state_dict_holds_each_tensor_once_and_survives_safetensors(model: Network, tmp_path: Path) -> None:
    state = model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")  # refuses shared tensors
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {key: tensor.shape for key, tensor in loaded.items()} == {key: t.shape for key, t in state.items()}
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not {"mean", "std"} & set(state)
