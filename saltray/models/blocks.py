"""Modules and initialisation that several networks share."""

import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.parts import PLAIN, DecoderParts, ScSE


class ConvReLU(nn.Module):
    """3x3 convolution with bias, BatchNorm if wanted, then ReLU: [B, inputs, H, W] -> [B, outputs, H, W].

    BatchNorm makes the bias redundant; it stays, so that the parameters are those of a network without BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, *, batchnorm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs) if batchnorm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(x if self.norm is None else self.norm(x), inplace=True)


class StridedPointwise(nn.Conv2d):
    """1x1 convolution with a stride, built without bias: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].

    On a CPU the pixels are picked first and convolved with stride 1, which is the same sum. oneDNN's own gradient of a
    strided 1x1 convolution in channels_last writes past its workspace where the input has fewer than 16 channels (8
    without AVX-512): the heap is corrupted, or the gradient is wrong. This is oneDNN's issue 6035, in torch 2.15.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


class DecoderBlock(nn.Module):
    """Doubles the resolution: [B, inputs, H, W] -> [B, outputs, 2H, 2W].

    Args:
        inputs: channels of the input.
        middle: channels of the first convolution.
        outputs: channels of the output.
        is_deconv: upsample by a transposed convolution, otherwise bilinearly. The kernel of 4 is a multiple of the
            stride, so every output pixel depends on the same number of input pixels (Odena et al. 2016, Deconvolution
            and Checkerboard Artifacts).
        parts: `batchnorm` and `scse` are added here.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, is_deconv: bool, parts: DecoderParts = PLAIN) -> None:
        super().__init__()
        first = ConvReLU(inputs, middle, batchnorm=parts.batchnorm)
        if is_deconv:
            self.block = nn.Sequential(first, nn.ConvTranspose2d(middle, outputs, 4, stride=2, padding=1))
            if parts.batchnorm:
                self.block.add_module("norm", nn.BatchNorm2d(outputs))
            self.block.add_module("relu", nn.ReLU(inplace=True))
        else:
            self.block = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                first,
                ConvReLU(middle, outputs, batchnorm=parts.batchnorm),
            )
        self.scse = ScSE(outputs) if parts.scse else None

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x)
        return result if self.scse is None else self.scse(result)


def initialise_encoder(encoder: nn.Module) -> None:
    """Initialise all convolutions as torchvision does: Kaiming normal by fan-out (He et al. 2015), zero biases."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
