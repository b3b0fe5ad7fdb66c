"""AlbuNet: a U-Net with a ResNet-34 encoder (Buslaev; Iglovikov and Shvets 2018, arXiv:1801.05746)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from saltray.models.blocks import ConvReLU, DecoderBlock, StridedPointwise, initialise_encoder
from saltray.models.network import Network


class ResNet34Encoder(nn.Module):
    """ResNet-34 (He et al. 2015) without its classifier: DistributedDataParallel fails on unused parameters.

    Shape: [B, 3, H, W] -> the outputs of the four stages, [B, width, H/4, W/4] to [B, 8 width, H/32, W/32]. With a
    `width` of 64 the names and shapes of the parameters, and the distribution of their initial values, are those of
    torchvision's resnet34. The first pool is 2x2 instead of 3x3, as published for AlbuNet.

    Args:
        width: channels of the first stage.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks=3, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks=4, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks=6, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks=3, stride=2)
        initialise_encoder(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        conv1 = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        conv2 = self.layer1(conv1)
        conv3 = self.layer2(conv2)
        conv4 = self.layer3(conv3)
        conv5 = self.layer4(conv4)
        return conv2, conv3, conv4, conv5


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(StridedPointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class AlbuNet(Network):
    """AlbuNet: a U-Net with a ResNet-34 encoder and a decoder without BatchNorm.

    Source: Iglovikov and Shvets 2018, arXiv:1801.05746, with the ResNet-34 encoder of Buslaev. Encoder: He et al. 2015,
    arXiv:1512.03385. With the default arguments the state dict is that of the published network, without the unused
    classifier (encoder.fc); `saltray.models.weights.load_weights` reads published checkpoints.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 64
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several.

    Args:
        num_classes: number of output channels.
        num_filters: width of the decoder, in channels; 32 as published.
        encoder_width: channels of the encoder's first stage; 64 as published.
        is_deconv: upsample by transposed convolutions, otherwise bilinearly.

    Raises:
        ModelError: in the forward pass, where the input has another shape, data type or size.
    """

    multiple = 64
    aliases: ClassVar[Mapping[str, str]] = {
        "conv1.0.": "encoder.conv1.",
        "conv1.1.": "encoder.bn1.",
        "conv2.": "encoder.layer1.",
        "conv3.": "encoder.layer2.",
        "conv4.": "encoder.layer3.",
        "conv5.": "encoder.layer4.",
    }
    backbone = "resnet34"

    def __init__(
        self, num_classes: int = 1, num_filters: int = 32, *, encoder_width: int = 64, is_deconv: bool = True
    ) -> None:
        super().__init__(num_classes)
        n, w = num_filters, encoder_width
        self.encoder = ResNet34Encoder(w)
        self.center = DecoderBlock(8 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec5 = DecoderBlock(8 * n + 8 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec4 = DecoderBlock(8 * n + 4 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec3 = DecoderBlock(8 * n + 2 * w, 8 * n, 2 * n, is_deconv=is_deconv)
        self.dec2 = DecoderBlock(2 * n + w, 4 * n, 4 * n, is_deconv=is_deconv)
        self.dec1 = DecoderBlock(4 * n, 4 * n, n, is_deconv=is_deconv)
        self.dec0 = ConvReLU(n, n)
        self.final = nn.Conv2d(n, num_classes, 1)

    def segment(self, x: Tensor) -> Tensor:
        conv2, conv3, conv4, conv5 = self.encoder(x)
        center = self.center(F.max_pool2d(conv5, 2))
        dec5 = self.dec5(torch.cat([center, conv5], 1))
        dec4 = self.dec4(torch.cat([dec5, conv4], 1))
        dec3 = self.dec3(torch.cat([dec4, conv3], 1))
        dec2 = self.dec2(torch.cat([dec3, conv2], 1))
        scores: Tensor = self.final(self.dec0(self.dec1(dec2)))
        return scores
