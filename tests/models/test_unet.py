"""U-Net against its published channels and an independent forward pass."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.parts import DecoderParts
from saltray.models.unet import UNet


def test_parameters_are_those_of_the_published_channels() -> None:
    def double(inputs: int, outputs: int) -> int:
        """Two 3x3 convolutions without bias, each with a BatchNorm."""
        return 9 * inputs * outputs + 9 * outputs * outputs + 2 * 2 * outputs

    down = double(3, 64) + double(64, 128) + double(128, 256) + double(256, 512) + double(512, 1024)
    up = sum(4 * 2 * n * n + n + double(2 * n, n) for n in (512, 256, 128, 64))
    assert sum(p.numel() for p in UNet().parameters()) == down + up + 64 + 1


@pytest.mark.parametrize("is_deconv", [True, False])
def test_forward_agrees_with_a_reference(is_deconv: bool, randomise: Callable[[nn.Module], None]) -> None:
    model = UNet(num_filters=2, encoder_width=3, is_deconv=is_deconv).eval()
    randomise(model)
    model.double()  # allows a tight tolerance
    state = model.state_dict()

    def double(name: str, x: Tensor) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{name}.{conv}.weight"], padding=1)
            mean, var, weight, bias = (
                state[f"{name}.{norm}.{part}"].view(1, -1, 1, 1)
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu((x - mean) / torch.sqrt(var + 1e-5) * weight + bias)
        return x

    def up(name: str, x: Tensor) -> Tensor:
        if is_deconv:
            return F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.conv2d(x, state[f"{name}.1.weight"], state[f"{name}.1.bias"], padding=1)

    images = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    x = (images - model.mean) / model.std
    stages = []
    for level in range(4):
        stages.append(double(f"encoder.{level}", x))
        x = F.max_pool2d(stages[-1], 2)
    x = double("encoder.4", x)
    for level in range(4):
        x = double(f"decoder.{level}", torch.cat([up(f"upsample.{level}", x), stages.pop()], 1))
    expected = F.conv2d(x, state["final.weight"], state["final.bias"])
    assert expected.std() > 0.1  # the output is not constant
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_batchnorm_is_refused_since_it_is_there() -> None:
    with pytest.raises(ModelError, match="decoder of UNet has BatchNorm as it is"):
        UNet(parts=DecoderParts(batchnorm=True))


def test_one_channel_changes_the_first_convolution_alone() -> None:
    with torch.device("meta"):
        rgb, grey = (UNet(num_filters=2, encoder_width=1, in_channels=channels) for channels in (3, 1))
    shapes, others = ({key: t.shape for key, t in model.state_dict().items()} for model in (grey, rgb))
    assert shapes == others | {f"encoder.0.0.{part}": (1, 1, 3, 3) for part in ("weight", "offset")}
