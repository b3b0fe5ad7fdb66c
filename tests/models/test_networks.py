"""What holds for every architecture that a configuration can name."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from saltray.config import Config, ModelConfig, TrainConfig
from saltray.errors import ConfigError, ModelError
from saltray.models.build import build_model
from saltray.models.network import Network
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet

ARCHITECTURES = get_args(get_type_hints(ModelConfig)["architecture"])


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


def test_any_multiple_goes_in_and_comes_out(model: Network) -> None:
    height, width = model.multiple, 3 * model.multiple
    with torch.no_grad():
        assert model(torch.rand(2, 1, height, width)).shape == (2, 1, height, width)
        assert model(torch.rand(2, 3, height, width)).shape == (2, 1, height, width)


def test_half_a_multiple_is_refused(model: Network) -> None:
    side = model.multiple
    with pytest.raises(ModelError, match=f"multiples of {side}: pad to {2 * side}x{side}"):
        model(torch.rand(1, 1, side + side // 2, side))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_config_knows_the_multiples(architecture: str) -> None:
    config = ModelConfig(architecture=architecture, num_filters=3, encoder_width=4)
    multiple = build_model(config).multiple
    Config(data="tiles", model=config, train=TrainConfig(input_size=multiple))
    with pytest.raises(ConfigError, match=f"multiple of {multiple}"):
        Config(data="tiles", model=config, train=TrainConfig(input_size=multiple // 2))


def test_every_parameter_takes_part(model: Network) -> None:
    model.train()(torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_ddp_takes_a_second_step(model: Network, process_group: None) -> None:
    ddp = DistributedDataParallel(model.train(), find_unused_parameters=False)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):  # it is the second forward pass that finds parameters without a gradient
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


@pytest.mark.parametrize("depth", [11, 16])
def test_ternausnet_s_encoder_is_torchvision_s(depth: int) -> None:
    width_64 = TernausNet(depth).state_dict()
    with torch.device("meta"):
        features = torchvision.models.get_model(f"vgg{depth}", weights=None).features
    theirs = {f"encoder.{key}": tensor.shape for key, tensor in features.state_dict().items()}
    assert {key: t.shape for key, t in width_64.items() if key.startswith("encoder.")} == theirs


def test_ternausnet16_s_decoder_has_the_published_channels() -> None:
    state = TernausNet(16).state_dict()
    blocks = {
        "center": (512, 512, 256),
        "dec5": (512 + 256, 512, 256),
        "dec4": (512 + 256, 512, 256),
        "dec3": (256 + 256, 256, 64),
        "dec2": (128 + 64, 128, 32),
    }
    for name, (inputs, middle, outputs) in blocks.items():
        assert state[f"{name}.block.0.conv.weight"].shape == (middle, inputs, 3, 3)
        assert state[f"{name}.block.1.weight"].shape == (middle, outputs, 4, 4)
    assert state["dec1.conv.weight"].shape == (32, 64 + 32, 3, 3)


def test_ternausnet_skips_before_each_pool(scatter) -> None:
    model = TernausNet(11, num_filters=2, encoder_width=2).eval()
    scatter(model)
    joined: dict[str, torch.Tensor] = {}
    for name in ("dec1", "dec2", "dec3", "dec4", "dec5"):
        getattr(model, name).register_forward_pre_hook(lambda _m, args, name=name: joined.update({name: args[0]}))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.segment(x)
        for name, layers in zip(("dec1", "dec2", "dec3", "dec4", "dec5"), (2, 5, 10, 15, 20), strict=True):
            skip = nn.Sequential(*list(model.encoder.children())[:layers])(x)  # VGG11 up to the stage's last ReLU
            torch.testing.assert_close(joined[name][:, -skip.shape[1] :], skip)


def test_ternausnet_has_two_depths() -> None:
    with pytest.raises(ModelError, match="depth is 13; use 11 or 16"):
        TernausNet(13)  # type: ignore[arg-type]


def test_unet_has_the_published_channels() -> None:
    convolution, norm = (lambda i, o: 9 * i * o), (lambda o: 2 * o)
    pair = lambda i, o: convolution(i, o) + convolution(o, o) + 2 * norm(o)  # noqa: E731
    down = pair(3, 64) + pair(64, 128) + pair(128, 256) + pair(256, 512) + pair(512, 1024)
    up = sum(4 * 2 * o * o + o + pair(2 * o, o) for o in (512, 256, 128, 64))
    assert sum(p.numel() for p in UNet().parameters()) == down + up + 64 + 1
