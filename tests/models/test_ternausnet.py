"""TernausNet against torchvision's VGG and the published decoder."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.ternausnet import TernausNet

LAST_RELU = {11: (2, 5, 10, 15, 20), 16: (4, 9, 16, 23, 30)}
"""Number of the encoder's layers up to and including each stage's last ReLU."""


@pytest.mark.parametrize("depth", [11, 16])
def test_encoder_is_the_vgg_of_torchvision(depth: Literal[11, 16]) -> None:
    ours = TernausNet(depth).state_dict()
    with torch.device("meta"):
        features = torchvision.models.get_model(f"vgg{depth}", weights=None).features
    theirs = {f"encoder.{key}": tensor.shape for key, tensor in features.state_dict().items()}
    assert {key: t.shape for key, t in ours.items() if key.startswith("encoder.")} == theirs


def test_decoder_has_the_published_channels() -> None:
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


@pytest.mark.parametrize("depth", [11, 16])
def test_skips_are_the_stages_before_each_pool(depth: Literal[11, 16], randomise: Callable[[nn.Module], None]) -> None:
    model = TernausNet(depth, num_filters=2, encoder_width=2).eval()
    randomise(model)
    inputs: dict[str, Tensor] = {}
    names = ("dec1", "dec2", "dec3", "dec4", "dec5")
    for name in names:
        getattr(model, name).register_forward_pre_hook(lambda _m, args, name=name: inputs.update({name: args[0]}))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.segment(x)
        for name, layers in zip(names, LAST_RELU[depth], strict=True):
            skip = nn.Sequential(*list(model.encoder.children())[:layers])(x)
            torch.testing.assert_close(inputs[name][:, -skip.shape[1] :], skip)


def test_other_depths_are_refused() -> None:
    with pytest.raises(ModelError, match="depth of TernausNet is 13; use 11 or 16"):
        TernausNet(13)  # type: ignore[arg-type]
