"""AlbuNet against an independent implementation from its published table, and its published counts."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.albunet import AlbuNet

FC = 512 * 1000 + 1000  # the unused classifier, which the published counts include
DECODER = {  # block: inputs, middle, outputs
    "center": (512, 512, 256),
    "dec5": (512 + 256, 512, 256),
    "dec4": (256 + 256, 512, 256),
    "dec3": (128 + 256, 256, 64),
    "dec2": (64 + 64, 128, 128),
    "dec1": (128, 128, 32),
}
BLOCKS = (3, 4, 6, 3)


class Reference:
    """AlbuNet in eval mode, from its state dict and torch.nn.functional alone."""

    def __init__(self, state: dict[str, Tensor], is_deconv: bool) -> None:
        self.state = state
        self.is_deconv = is_deconv

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def residual(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = F.relu(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride)))
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y))
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride))
        return F.relu(x + y)

    def decode(self, name: str, *parts: Tensor) -> Tensor:
        x = torch.cat(parts, 1)
        if self.is_deconv:
            x = F.relu(self.conv(f"{name}.block.0.conv", x))
            weight, bias = self.state[f"{name}.block.1.weight"], self.state[f"{name}.block.1.bias"]
            return F.relu(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.relu(self.conv(f"{name}.block.2.conv", F.relu(self.conv(f"{name}.block.1.conv", x))))

    def scores(self, grey: Tensor) -> Tensor:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (grey.repeat(1, 3, 1, 1) - mean[None, :, None, None]) / std[None, :, None, None]
        x = F.max_pool2d(F.relu(self.norm("encoder.bn1", self.conv("encoder.conv1", x, 2))), 2, 2)
        conv = []
        for stage, blocks in enumerate(BLOCKS, 1):
            for block in range(blocks):
                x = self.residual(f"encoder.layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
            conv.append(x)
        conv2, conv3, conv4, conv5 = conv
        x = self.decode("center", F.max_pool2d(conv5, 2, 2))
        x = self.decode("dec5", x, conv5)
        x = self.decode("dec4", x, conv4)
        x = self.decode("dec3", x, conv3)
        x = self.decode("dec2", x, conv2)
        x = self.decode("dec1", x)
        return self.conv("final", F.relu(self.conv("dec0.conv", x)))


@pytest.fixture(scope="module")
def published() -> AlbuNet:
    return AlbuNet()


def counted(blocks: dict[str, tuple[int, int, int]]) -> int:
    """Parameters of decoder blocks with transposed convolutions, of dec0 and of final."""
    convolutions = sum(9 * i * m + m + 16 * m * o + o for i, m, o in blocks.values())
    return convolutions + 9 * 32 * 32 + 32 + 32 + 1


@pytest.mark.parametrize(
    ("encoder", "published", "expansion"),
    [("resnet18", 11_689_512, 1), ("resnet34", 21_797_672, 1), ("resnet50", 25_557_032, 4)],
)
def test_parameters_are_those_of_the_published_encoder_and_decoder(
    encoder: str, published: int, expansion: int
) -> None:
    extra = {"center": 512, "dec5": 512, "dec4": 256, "dec3": 128, "dec2": 64, "dec1": 0}  # channels of the encoder
    blocks = {name: (i + (expansion - 1) * extra[name], m, o) for name, (i, m, o) in DECODER.items()}
    classifier = 512 * expansion * 1000 + 1000
    with torch.device("meta"):
        model = AlbuNet(encoder=encoder)
    assert sum(p.numel() for p in model.parameters()) == published - classifier + counted(blocks)
    decoder = {key for key in model.state_dict() if not key.startswith("encoder.")}
    layers = {f"{name}.block.{layer}" for name in DECODER for layer in ("0.conv", "1")} | {"dec0.conv", "final"}
    assert decoder == {f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias")}


@pytest.mark.parametrize(("is_deconv", "count"), [(True, 38_128_457), (False, 35_117_897)])
def test_parameters_are_the_published_ones_without_fc(is_deconv: bool, count: int) -> None:
    assert sum(p.numel() for p in AlbuNet(is_deconv=is_deconv).parameters()) == count - FC


def test_decoder_has_the_published_channels(published: AlbuNet) -> None:
    state = published.state_dict()
    for name, (inputs, middle, outputs) in DECODER.items():
        assert state[f"{name}.block.0.conv.weight"].shape == (middle, inputs, 3, 3)
        assert state[f"{name}.block.1.weight"].shape == (middle, outputs, 4, 4)
    assert state["dec0.conv.weight"].shape == (32, 32, 3, 3)
    assert state["final.weight"].shape == (1, 32, 1, 1)


@pytest.mark.parametrize("is_deconv", [True, False])
def test_forward_agrees_with_the_reference(is_deconv: bool, randomise: Callable[[nn.Module], None]) -> None:
    model = AlbuNet(num_filters=3, encoder_width=4, is_deconv=is_deconv).eval()
    randomise(model)
    model.double()  # allows a tight tolerance
    grey = torch.rand(2, 1, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        expected = Reference(model.state_dict(), is_deconv).scores(grey)
        assert expected.std() > 0.1  # the output is not constant
        torch.testing.assert_close(model(grey), expected, rtol=1e-9, atol=1e-9)


def test_several_classes_give_log_probabilities(randomise: Callable[[nn.Module], None]) -> None:
    model = AlbuNet(num_classes=3, num_filters=3, encoder_width=4).eval()
    randomise(model)
    grey = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        scores = Reference(model.state_dict(), True).scores(grey)
        expected = scores - torch.log(torch.exp(scores).sum(1, keepdim=True))
        torch.testing.assert_close(model(grey), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [128, 192, 256])
def test_output_has_the_size_of_the_input(small_albunet: AlbuNet, size: int) -> None:
    with torch.no_grad():
        assert small_albunet(torch.rand(1, 1, size, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize(("size", "fit"), [(96, 128), (101, 128), (160, 192), (202, 256), (224, 256)])
def test_other_sizes_are_refused_with_the_next_that_fits(small_albunet: AlbuNet, size: int, fit: int) -> None:
    with pytest.raises(ModelError) as error:
        small_albunet(torch.rand(1, 1, size, 128))
    assert str(error.value) == f"input is {size}x128; AlbuNet needs multiples of 64: pad it to {fit}x128"
