"""TernausNet against the published decoder and an independent composition."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.encoders import VGGS
from saltray.models.ternausnet import TernausNet

DECODER = {  # block: inputs, middle, outputs
    "center": (512, 512, 256),
    "dec5": (512 + 256, 512, 256),
    "dec4": (512 + 256, 512, 256),
    "dec3": (256 + 256, 256, 64),
    "dec2": (128 + 64, 128, 32),
}
CLASSIFIER = (512 * 49 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000


@pytest.mark.parametrize(
    ("encoder", "published"),
    [("vgg11", 132_863_336), ("vgg11_bn", 132_868_840), ("vgg16", 138_357_544), ("vgg16_bn", 138_365_992)],
)
def test_parameters_are_those_of_the_published_encoder_and_decoder(encoder: str, published: int) -> None:
    with torch.device("meta"):
        model = TernausNet(encoder=encoder)
    decoder = sum(9 * i * m + m + 16 * m * o + o for i, m, o in DECODER.values())
    decoder += 9 * (64 + 32) * 32 + 32 + 32 + 1
    assert sum(p.numel() for p in model.parameters()) == published - CLASSIFIER + decoder
    keys = {key for key in model.state_dict() if not key.startswith("encoder.")}
    layers = {f"{name}.block.{layer}" for name in DECODER for layer in ("0.conv", "1")} | {"dec1.conv", "final"}
    assert keys == {f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias")}


def test_decoder_has_the_published_channels() -> None:
    with torch.device("meta"):
        state = TernausNet(encoder="vgg16").state_dict()
    for name, (inputs, middle, outputs) in DECODER.items():
        assert state[f"{name}.block.0.conv.weight"].shape == (middle, inputs, 3, 3)
        assert state[f"{name}.block.1.weight"].shape == (middle, outputs, 4, 4)
    assert state["dec1.conv.weight"].shape == (32, 64 + 32, 3, 3)


@pytest.mark.parametrize("encoder", VGGS)
def test_skips_are_the_stages_before_each_pool(encoder: str, randomise: Callable[[nn.Module], None]) -> None:
    model = TernausNet(num_filters=2, encoder=encoder, encoder_width=2).eval()
    randomise(model)
    inputs: dict[str, Tensor] = {}
    names = ("dec1", "dec2", "dec3", "dec4", "dec5")
    for name in (*names, "center", "final"):
        getattr(model, name).register_forward_pre_hook(lambda _m, args, name=name: inputs.update({name: args[0]}))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        *skips, pool = model.encoder((x - model.mean) / model.std)
        for name, skip in zip(names, skips, strict=True):
            assert torch.equal(inputs[name][:, -skip.shape[1] :], skip)
        assert torch.equal(inputs["center"], pool)
        assert torch.equal(pool, F.max_pool2d(skips[-1], 2))
        assert torch.equal(inputs["final"], model.dec1(inputs["dec1"]))
