"""AlbuNet: a U-Net with a ResNet encoder (Buslaev; Iglovikov and Shvets 2018, arXiv:1801.05746)."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saltray.models.blocks import ConvReLU, DecoderBlock
from saltray.models.encoders import ResNetEncoder
from saltray.models.network import Features, Network
from saltray.models.parts import PLAIN, DecoderParts


class AlbuNet(Network):
    """AlbuNet: a U-Net with a ResNet encoder, and a decoder that is published without BatchNorm.

    Source: Iglovikov and Shvets 2018, arXiv:1801.05746, with the ResNet-34 encoder of Buslaev. Encoder: He et al. 2015,
    arXiv:1512.03385. With the default arguments the state dict is that of the published network, without the unused
    classifier (encoder.fc); `saltray.models.weights.load_weights` reads published checkpoints.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 64
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several; with deep
    supervision in training mode, an `Output`.

    Args:
        num_classes: number of output channels.
        num_filters: width of the decoder, in channels; 32 as published.
        encoder: resnet18, resnet34 (as published) or resnet50.
        encoder_width: channels of the encoder's first convolution; 64 as published.
        in_channels: 1 for grey images alone, 3 as published.
        is_deconv: upsample by transposed convolutions, otherwise bilinearly.
        parts: optional parts of the decoder; none as published.

    Raises:
        ModelError: `encoder` or `in_channels` is another one; in the forward pass, the input has another shape, data
            type or size.
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

    def __init__(
        self,
        num_classes: int = 1,
        num_filters: int = 32,
        *,
        encoder: str = "resnet34",
        encoder_width: int = 64,
        in_channels: int = 3,
        is_deconv: bool = True,
        parts: DecoderParts = PLAIN,
    ) -> None:
        super().__init__(num_classes, in_channels)
        n = num_filters
        block = partial(DecoderBlock, is_deconv=is_deconv, parts=parts)
        self.backbone = encoder
        self.encoder = ResNetEncoder(encoder, encoder_width, in_channels)
        conv2, conv3, conv4, conv5 = self.encoder.channels
        self.center = block(conv5, 16 * n, 8 * n)
        self.dec5 = block(8 * n + conv5, 16 * n, 8 * n)
        self.dec4 = block(8 * n + conv4, 16 * n, 8 * n)
        self.dec3 = block(8 * n + conv3, 8 * n, 2 * n)
        self.dec2 = block(2 * n + conv2, 4 * n, 4 * n)
        self.dec1 = block(4 * n, 4 * n, n)
        self.dec0 = ConvReLU(n, n, batchnorm=parts.batchnorm)
        self.add_heads(conv5, [8 * n, 8 * n, 2 * n, 4 * n, n], parts)

    def features(self, x: Tensor) -> Features:
        conv2, conv3, conv4, conv5 = self.encoder(x)
        center = self.center(F.max_pool2d(conv5, 2))
        dec5 = self.dec5(torch.cat([center, conv5], 1))
        dec4 = self.dec4(torch.cat([dec5, conv4], 1))
        dec3 = self.dec3(torch.cat([dec4, conv3], 1))
        dec2 = self.dec2(torch.cat([dec3, conv2], 1))
        dec0 = self.dec0(self.dec1(dec2))
        return Features(conv5, (dec5, dec4, dec3, dec2, dec0))
