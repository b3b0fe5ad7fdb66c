"""TernausNet: a U-Net with a VGG encoder (Iglovikov and Shvets 2018, arXiv:1801.05746)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from saltray.errors import ModelError
from saltray.models.blocks import ConvReLU, DecoderBlock, initialise_encoder
from saltray.models.network import Network

_LAYOUT = {11: "A", 16: "D"}  # columns of table 1 in Simonyan and Zisserman 2014


class TernausNet(Network):
    """TernausNet: a U-Net with a VGG11 or VGG16 encoder, without BatchNorm.

    Source: Iglovikov and Shvets 2018, arXiv:1801.05746. Encoder: Simonyan and Zisserman 2014, arXiv:1409.1556, named as
    in torchvision's `features`. Both depths have the decoder that was published for VGG16.

    Shape: float [B, 1, H, W] (grey) or [B, 3, H, W] (RGB) with values in 0..1 (pixels / 255), H and W multiples of 32
    -> [B, num_classes, H, W]: logits for one class, log-probabilities over the classes for several.

    Args:
        depth: number of VGG's layers, 11 or 16.
        num_classes: number of output channels.
        num_filters: width of the decoder, in channels; 32 as published.
        encoder_width: channels of the encoder's first stage; 64 as published. The other stages scale with it.
        is_deconv: upsample by transposed convolutions, otherwise bilinearly.

    Raises:
        ModelError: `depth` is another number; in the forward pass, the input has another shape, data type or size.
    """

    multiple = 32

    def __init__(
        self,
        depth: Literal[11, 16] = 16,
        num_classes: int = 1,
        num_filters: int = 32,
        *,
        encoder_width: int = 64,
        is_deconv: bool = True,
    ) -> None:
        super().__init__(num_classes)
        if depth not in _LAYOUT:
            raise ModelError(f"depth of TernausNet is {depth}; use 11 or 16")
        n, w = num_filters, encoder_width
        self.backbone = f"vgg{depth}"
        # An entry is a multiple of 64 channels, or "M" for a max pool.
        self.encoder = make_layers([entry if entry == "M" else entry // 64 * w for entry in cfgs[_LAYOUT[depth]]])
        initialise_encoder(self.encoder)
        self.center = DecoderBlock(8 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec5 = DecoderBlock(8 * n + 8 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec4 = DecoderBlock(8 * n + 8 * w, 16 * n, 8 * n, is_deconv=is_deconv)
        self.dec3 = DecoderBlock(8 * n + 4 * w, 8 * n, 2 * n, is_deconv=is_deconv)
        self.dec2 = DecoderBlock(2 * n + 2 * w, 4 * n, n, is_deconv=is_deconv)
        self.dec1 = ConvReLU(n + w, n)
        self.final = nn.Conv2d(n, num_classes, 1)

    def segment(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.encoder.children():
            if isinstance(layer, nn.MaxPool2d):
                skips.append(x)
            x = layer(x)
        conv1, conv2, conv3, conv4, conv5 = skips
        center = self.center(x)
        dec5 = self.dec5(torch.cat([center, conv5], 1))
        dec4 = self.dec4(torch.cat([dec5, conv4], 1))
        dec3 = self.dec3(torch.cat([dec4, conv3], 1))
        dec2 = self.dec2(torch.cat([dec3, conv2], 1))
        dec1 = self.dec1(torch.cat([dec2, conv1], 1))
        scores: Tensor = self.final(dec1)
        return scores
