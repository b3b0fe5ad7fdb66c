"""Encoders with torchvision's names and shapes of parameters, so that its pretrained weights load by name."""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import cfgs, make_layers

from saltray.errors import ModelError
from saltray.models.blocks import StridedPointwise, initialise_encoder
from saltray.models.stem import stem


class ResNetLayout(NamedTuple):
    """A column of table 1 in He et al. 2015."""

    block: type[BasicBlock | Bottleneck]
    counts: tuple[int, int, int, int]
    """Blocks of each stage."""


class VGGLayout(NamedTuple):
    """A column of table 1 in Simonyan and Zisserman 2014."""

    column: str
    batchnorm: bool


RESNETS: Mapping[str, ResNetLayout] = {
    "resnet18": ResNetLayout(BasicBlock, (2, 2, 2, 2)),
    "resnet34": ResNetLayout(BasicBlock, (3, 4, 6, 3)),
    "resnet50": ResNetLayout(Bottleneck, (3, 4, 6, 3)),
}
VGGS: Mapping[str, VGGLayout] = {
    "vgg11": VGGLayout("A", batchnorm=False),
    "vgg11_bn": VGGLayout("A", batchnorm=True),
    "vgg16": VGGLayout("D", batchnorm=False),
    "vgg16_bn": VGGLayout("D", batchnorm=True),
}


class ResNetEncoder(nn.Module):
    """ResNet (He et al. 2015, arXiv:1512.03385) without its classifier: DDP fails on unused parameters.

    Shape: [B, in_channels, H, W] -> the outputs of the four stages, [B, channels[0], H/4, W/4] to
    [B, channels[3], H/32, W/32]. With a `width` of 64 the names and shapes of the parameters, and the distribution of
    their initial values, are those of torchvision. The first pool is 2x2 instead of 3x3, as published for AlbuNet.

    Args:
        name: a key of `RESNETS`.
        width: channels of the first convolution; 64 in torchvision.
        in_channels: channels of the input, 1 or 3.

    Attributes:
        channels: channels of each output.

    Raises:
        ModelError: `name` is another one.
    """

    def __init__(self, name: str = "resnet34", width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ModelError(f"there is no ResNet encoder {name!r}; use one of {', '.join(RESNETS)}")
        block, counts = RESNETS[name]
        w, expansion = width, block.expansion
        self.channels = tuple(expansion * w << stage for stage in range(4))
        self.conv1 = stem(in_channels, w, 7, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.layer1 = _stage(block, w, w, count=counts[0], stride=1)
        self.layer2 = _stage(block, expansion * w, 2 * w, count=counts[1], stride=2)
        self.layer3 = _stage(block, expansion * 2 * w, 4 * w, count=counts[2], stride=2)
        self.layer4 = _stage(block, expansion * 4 * w, 8 * w, count=counts[3], stride=2)
        initialise_encoder(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        conv1 = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        conv2 = self.layer1(conv1)
        conv3 = self.layer2(conv2)
        conv4 = self.layer3(conv3)
        conv5 = self.layer4(conv4)
        return conv2, conv3, conv4, conv5


def _stage(block: type[BasicBlock | Bottleneck], inputs: int, width: int, *, count: int, stride: int) -> nn.Sequential:
    outputs = block.expansion * width
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(StridedPointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    first = block(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, width) for _ in range(count - 1)))


class VGGEncoder(nn.Sequential):
    """VGG (Simonyan and Zisserman 2014, arXiv:1409.1556) without its classifier: torchvision's `features`.

    Shape: [B, in_channels, H, W] -> the outputs of the five stages before each pool, [B, channels[0], H, W] to
    [B, channels[4], H/16, W/16], and that of the last pool, [B, channels[5], H/32, W/32].

    Args:
        name: a key of `VGGS`.
        width: channels of the first stage; 64 in torchvision. The other stages scale with it.
        in_channels: channels of the input, 1 or 3.

    Attributes:
        channels: channels of each output.

    Raises:
        ModelError: `name` is another one.
    """

    def __init__(self, name: str = "vgg11", width: int = 64, in_channels: int = 3) -> None:
        if name not in VGGS:
            raise ModelError(f"there is no VGG encoder {name!r}; use one of {', '.join(VGGS)}")
        column, batchnorm = VGGS[name]
        # An entry is a multiple of 64 channels, or "M" for a max pool.
        layers = make_layers([entry if entry == "M" else entry // 64 * width for entry in cfgs[column]], batchnorm)
        if in_channels == 1:
            layers[0] = stem(1, width, 3, bias=True)
        super().__init__(*layers)
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width)
        initialise_encoder(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for layer in self:
            if isinstance(layer, nn.MaxPool2d):
                outputs.append(x)
            x = layer(x)
        return (*outputs, x)
