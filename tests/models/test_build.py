"""A configuration gives the network that it describes."""

from collections.abc import Callable
from typing import Literal, get_args, get_type_hints

import pytest
import torch

from saltray.config import Config, ModelConfig, TrainConfig
from saltray.errors import ConfigError
from saltray.models.albunet import AlbuNet
from saltray.models.build import build_model
from saltray.models.network import Network
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet

Architecture = Literal["albunet", "ternausnet11", "ternausnet16", "unet"]
ARCHITECTURES = get_args(get_type_hints(ModelConfig)["architecture"])


@pytest.mark.parametrize("is_deconv", [True, False])
@pytest.mark.parametrize(
    ("architecture", "backbone", "expected"),
    [
        ("albunet", "resnet34", lambda deconv: AlbuNet(num_filters=3, encoder_width=4, is_deconv=deconv)),
        ("ternausnet11", "vgg11", lambda deconv: TernausNet(11, num_filters=3, encoder_width=4, is_deconv=deconv)),
        ("ternausnet16", "vgg16", lambda deconv: TernausNet(16, num_filters=3, encoder_width=4, is_deconv=deconv)),
        ("unet", None, lambda deconv: UNet(num_filters=3, encoder_width=4, is_deconv=deconv)),
    ],
)
def test_network_is_the_one_described(
    architecture: Architecture, backbone: str | None, expected: Callable[[bool], Network], is_deconv: bool
) -> None:
    config = ModelConfig(architecture=architecture, num_filters=3, encoder_width=4, is_deconv=is_deconv)
    torch.manual_seed(1)
    model = build_model(config)
    torch.manual_seed(1)
    other = expected(is_deconv)
    assert type(model) is type(other)
    assert model.backbone == backbone
    assert model.num_classes == 1
    state, reference = model.state_dict(), other.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[key], reference[key]) for key in state)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_config_checks_the_input_size_by_the_network_s_multiple(architecture: Architecture) -> None:
    config = ModelConfig(architecture=architecture, num_filters=3, encoder_width=4)
    multiple = build_model(config).multiple
    Config(data="tiles", model=config, train=TrainConfig(input_size=multiple))
    with pytest.raises(ConfigError, match=f"multiple of {multiple}"):
        Config(data="tiles", model=config, train=TrainConfig(input_size=multiple // 2))
