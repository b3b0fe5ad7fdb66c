"""Each encoder against torchvision's network of its name."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
import torchvision
from torch import Tensor, nn

from saltray.config import ENCODERS
from saltray.errors import ModelError
from saltray.models.encoders import RESNETS, VGGS, ResNetEncoder, VGGEncoder
from saltray.models.stem import GreyStem

NAMES = (*RESNETS, *VGGS)
RESNET_STRIDES, VGG_STRIDES = (4, 8, 16, 32), (1, 2, 4, 8, 16, 32)


def encoder(name: str, width: int, in_channels: int = 3) -> ResNetEncoder | VGGEncoder:
    return (ResNetEncoder if name in RESNETS else VGGEncoder)(name, width, in_channels)


def test_the_configuration_names_these_encoders() -> None:
    assert set(ENCODERS["albunet"]) == set(RESNETS)
    assert set(ENCODERS["ternausnet"]) == set(VGGS)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = torchvision.models.get_model(name, weights=None), encoder(name, 64)
    features = theirs.features if name in VGGS else theirs
    expected = {key: t.shape for key, t in features.state_dict().items() if not key.startswith("fc.")}
    assert [(key, tensor.shape) for key, tensor in ours.state_dict().items()] == list(expected.items())


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_computes_what_that_of_torchvision_does(name: str) -> None:
    theirs = torchvision.models.get_model(name, weights=None).eval().double()
    theirs.fc = nn.Identity()
    ours = ResNetEncoder(name).eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.maxpool = nn.MaxPool2d(2, 2)
    seen: list[Tensor] = []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        getattr(theirs, stage).register_forward_hook(lambda _module, _args, output: seen.append(output))
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        outputs = ours(x)
        theirs(x)
    for a, b in zip(outputs, seen, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", VGGS)
def test_a_vgg_returns_what_its_pools_take_and_the_last_gives(
    name: str, randomise: Callable[[nn.Module], None]
) -> None:
    ours = VGGEncoder(name, 3).eval()
    randomise(ours)
    per_convolution = 3 if name.endswith("_bn") else 2  # with ReLU, and BatchNorm
    convolutions = (1, 1, 2, 2, 2) if "11" in name else (2, 2, 3, 3, 3)
    ends = accumulate(per_convolution * count + 1 for count in convolutions)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        *stages, last = ours(x)
        for stage, end in zip(stages, ends, strict=True):
            assert torch.equal(stage, nn.Sequential(*list(ours.children())[: end - 1])(x))
        assert torch.equal(last, nn.Sequential(*ours.children())(x))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_channels_and_sizes_that_are_told(name: str, in_channels: int) -> None:
    with torch.device("meta"):
        ours = encoder(name, 4, in_channels)
        outputs = ours(torch.empty(2, in_channels, 64, 128))
    strides = RESNET_STRIDES if name in RESNETS else VGG_STRIDES
    expected = [(2, c, 64 // s, 128 // s) for c, s in zip(ours.channels, strides, strict=True)]
    assert [tuple(output.shape) for output in outputs] == expected


@pytest.mark.parametrize("name", NAMES)
def test_one_channel_changes_the_first_convolution_alone(name: str) -> None:
    with torch.device("meta"):
        grey, rgb = encoder(name, 4, 1), encoder(name, 4)
    first = "conv1" if name in RESNETS else "0"
    assert isinstance(grey.get_submodule(first), GreyStem)
    shapes, others = ({key: t.shape for key, t in model.state_dict().items()} for model in (grey, rgb))
    kernel = others[f"{first}.weight"][2:]
    assert shapes == others | {f"{first}.{part}": (4, 1, *kernel) for part in ("weight", "offset")}


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_initial_values_are_distributed_as_in_torchvision(name: str) -> None:
    ours = encoder(name, 64)
    convolutions = [module for module in ours.modules() if isinstance(module, nn.Conv2d)]
    weight = convolutions[-1].weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (ResNetEncoder, "vgg11", "resnet18, resnet34, resnet50"),
        (VGGEncoder, "vgg13", "vgg11, vgg11_bn, vgg16, vgg16_bn"),
    ],
)
def test_other_names_are_refused(kind: type[nn.Module], name: str, known: str) -> None:
    with pytest.raises(ModelError, match=f"encoder '{name}'; use one of {known}"):
        kind(name)
