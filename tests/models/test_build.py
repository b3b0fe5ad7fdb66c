"""A configuration gives the network that it describes."""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_type_hints

import pytest
import torch

from saltray.config import ENCODERS, Config, ModelConfig, TrainConfig
from saltray.errors import ConfigError
from saltray.models.albunet import AlbuNet
from saltray.models.build import build_model
from saltray.models.network import Network
from saltray.models.parts import DecoderParts
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet

Architecture = Literal["albunet", "ternausnet", "unet"]
ARCHITECTURES = get_args(get_type_hints(ModelConfig)["architecture"])
KINDS: dict[str, Callable[..., Network]] = {"albunet": AlbuNet, "ternausnet": TernausNet, "unet": UNet}
PLAIN = {"decoder_batchnorm": False, "deep_supervision": False}
PARTS: list[tuple[dict[str, bool], DecoderParts]] = [
    ({}, DecoderParts()),
    ({"decoder_batchnorm": True}, DecoderParts(batchnorm=True)),
    ({"scse": True}, DecoderParts(scse=True)),
    ({"hypercolumn": True}, DecoderParts(hypercolumn=True)),
    ({"deep_supervision": True}, DecoderParts(deep_supervision=True)),
]


def assert_equal(config: ModelConfig, expected: Callable[[], Network]) -> Network:
    """Equal initial values, too."""
    torch.manual_seed(1)
    model = build_model(config)
    torch.manual_seed(1)
    other = expected()
    assert type(model) is type(other)
    assert model.num_classes == 1
    state, reference = model.state_dict(), other.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[key], reference[key]) for key in state)
    return model


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("is_deconv", [True, False])
@pytest.mark.parametrize(
    ("architecture", "encoder", "backbone"),
    [
        *((name, None, next(iter(own), None)) for name, own in ENCODERS.items()),
        *((name, encoder, encoder) for name, own in ENCODERS.items() for encoder in own),
    ],
)
def test_network_is_the_one_described(
    architecture: str, encoder: Any, backbone: str | None, is_deconv: bool, in_channels: int
) -> None:
    widths: dict[str, Any] = {"num_filters": 3, "encoder_width": 4, "is_deconv": is_deconv, "in_channels": in_channels}
    config = ModelConfig(architecture=architecture, encoder=encoder, **widths)  # type: ignore[arg-type]
    named = {"encoder": backbone} if backbone else {}
    parts = DecoderParts(batchnorm=architecture != "unet", deep_supervision=True)
    model = assert_equal(config, lambda: KINDS[architecture](**named, **widths, parts=parts))
    assert model.backbone == config.backbone == backbone


@pytest.mark.parametrize(
    ("architecture", "settings", "parts"),
    [(name, *pair) for name in ARCHITECTURES for pair in PARTS if name != "unet" or not pair[1].batchnorm],
)
def test_each_part_is_one_setting(architecture: Architecture, settings: dict[str, bool], parts: DecoderParts) -> None:
    config = ModelConfig(architecture=architecture, num_filters=3, encoder_width=4, **PLAIN | settings)  # type: ignore[arg-type]
    assert_equal(config, lambda: KINDS[architecture](num_filters=3, encoder_width=4, parts=parts))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_config_checks_the_input_size_by_the_network_s_multiple(architecture: Architecture) -> None:
    config = ModelConfig(architecture=architecture, num_filters=3, encoder_width=4)
    multiple = build_model(config).multiple
    Config(data="tiles", model=config, train=TrainConfig(input_size=multiple))
    with pytest.raises(ConfigError, match=f"multiple of {multiple}"):
        Config(data="tiles", model=config, train=TrainConfig(input_size=multiple // 2))


def test_a_misfit_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.encoder is vgg11, but unet has an encoder of its own"):
        build_model(ModelConfig(architecture="unet", encoder="vgg11"))


@pytest.mark.parametrize(
    "config",
    [
        *(
            ModelConfig(architecture=name, encoder=encoder, num_filters=8, encoder_width=8)  # type: ignore[arg-type]
            for name, own in ENCODERS.items()
            for encoder in own or (None,)
        ),
        *(ModelConfig(num_filters=8, encoder_width=8, **PLAIN | part) for part, _ in PARTS[1:]),  # type: ignore[arg-type]
        ModelConfig(num_filters=8, encoder_width=8, in_channels=1),
        ModelConfig(num_filters=8, encoder_width=8, is_deconv=False),
    ],
    ids=lambda config: f"{config.title} {config.in_channels} {config.is_deconv}",
)
def test_each_network_overfits_a_tile(config: ModelConfig) -> None:
    """Twice, in noise of its own each time, as BatchNorm needs more than one value."""
    masks = torch.zeros(2, 1, 64, 64)
    masks[..., 20:50, 10:40] = 1
    images = masks / 2 + 0.4 * torch.rand(masks.shape)
    model = build_model(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    overlap = 0.0
    for step in range(1, 201):
        outputs: Any = model.train()(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs  # beside its side outputs
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, masks).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                found = model.eval()(images) > 0
            overlap = ((found & (masks > 0)).sum() / (found | (masks > 0)).sum()).item()
            if overlap > 0.9:
                break
    assert overlap > 0.9, f"IoU {overlap:.3f} after 200 steps"
