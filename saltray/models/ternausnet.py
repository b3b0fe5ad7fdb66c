"""TernausNet: a U-Net with a VGG encoder (Iglovikov and Shvets 2018, arXiv:1801.05746)."""

from functools import partial

import torch
from torch import Tensor

from saltray.models.blocks import ConvReLU, DecoderBlock
from saltray.models.encoders import VGGEncoder
from saltray.models.network import Features, Network
from saltray.models.parts import PLAIN, DecoderParts


class TernausNet(Network):
    """TernausNet: a U-Net with a VGG encoder, and a decoder that is published without BatchNorm.

    Source: Iglovikov and Shvets 2018, arXiv:1801.05746. Encoder: Simonyan and Zisserman 2014, arXiv:1409.1556, named as
    in torchvision's `features`. All encoders have the decoder that was published for VGG16.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 32
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several; with deep
    supervision in training mode, an `Output`.

    Args:
        num_classes: number of output channels.
        num_filters: width of the decoder, in channels; 32 as published.
        encoder: vgg11, vgg11_bn, vgg16 or vgg16_bn.
        encoder_width: channels of the encoder's first stage; 64 as published. The other stages scale with it.
        in_channels: 1 for grey images alone, 3 as published.
        is_deconv: upsample by transposed convolutions, otherwise bilinearly.
        parts: optional parts of the decoder; none as published.

    Raises:
        ModelError: `encoder` or `in_channels` is another one; in the forward pass, the input has another shape, data
            type or size.
    """

    multiple = 32

    def __init__(
        self,
        num_classes: int = 1,
        num_filters: int = 32,
        *,
        encoder: str = "vgg11",
        encoder_width: int = 64,
        in_channels: int = 3,
        is_deconv: bool = True,
        parts: DecoderParts = PLAIN,
    ) -> None:
        super().__init__(num_classes, in_channels)
        n = num_filters
        block = partial(DecoderBlock, is_deconv=is_deconv, parts=parts)
        self.backbone = encoder
        self.encoder = VGGEncoder(encoder, encoder_width, in_channels)
        conv1, conv2, conv3, conv4, conv5, pool = self.encoder.channels
        self.center = block(pool, 16 * n, 8 * n)
        self.dec5 = block(8 * n + conv5, 16 * n, 8 * n)
        self.dec4 = block(8 * n + conv4, 16 * n, 8 * n)
        self.dec3 = block(8 * n + conv3, 8 * n, 2 * n)
        self.dec2 = block(2 * n + conv2, 4 * n, n)
        self.dec1 = ConvReLU(n + conv1, n, batchnorm=parts.batchnorm)
        self.add_heads(pool, [8 * n, 8 * n, 8 * n, 2 * n, n], parts)

    def features(self, x: Tensor) -> Features:
        conv1, conv2, conv3, conv4, conv5, pool = self.encoder(x)
        center = self.center(pool)
        dec5 = self.dec5(torch.cat([center, conv5], 1))
        dec4 = self.dec4(torch.cat([dec5, conv4], 1))
        dec3 = self.dec3(torch.cat([dec4, conv3], 1))
        dec2 = self.dec2(torch.cat([dec3, conv2], 1))
        dec1 = self.dec1(torch.cat([dec2, conv1], 1))
        return Features(pool, (center, dec5, dec4, dec3, dec1))
