"""The first convolution, for RGB and for grey images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.stem import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, GreyStem, stem


def normalise(grey: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (grey - grey.new_tensor(mean).view(1, -1, 1, 1)) / grey.new_tensor(std).view(1, -1, 1, 1)


@pytest.mark.parametrize(("kernel_size", "stride", "bias"), [(7, 2, False), (3, 1, True), (3, 1, False)])
def test_weights_for_rgb_give_the_same_for_grey_images_up_to_the_border(
    kernel_size: int, stride: int, bias: bool
) -> None:
    rgb = stem(3, 5, kernel_size, stride=stride, bias=bias).double()
    grey = stem(1, 5, kernel_size, stride=stride, bias=bias).double()
    assert isinstance(grey, GreyStem)
    weight, offset = GreyStem.from_rgb(rgb.weight.detach())
    grey.load_state_dict({**rgb.state_dict(), "weight": weight, "offset": offset})
    images = torch.rand(2, 1, 12, 18, dtype=torch.float64)
    with torch.no_grad():
        expected = rgb(normalise(images, IMAGENET_MEAN, IMAGENET_STD))
        torch.testing.assert_close(grey(normalise(images, GREY_MEAN, GREY_STD)), expected, rtol=1e-12, atol=1e-12)
        constant = grey(torch.zeros(1, 1, 12, 18, dtype=torch.float64))[0]
        assert (constant.amax((1, 2)) - constant.amin((1, 2))).min() > 1e-3  # no bias could replace the offset


def test_a_fresh_grey_stem_is_a_plain_convolution() -> None:
    grey = stem(1, 4, 7, stride=2, bias=False)
    assert set(grey.state_dict()) == {"weight", "offset"}
    assert [name for name, _ in grey.named_parameters()] == ["weight"]  # the offset is not trained
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(grey(x), F.conv2d(x, grey.weight, stride=2, padding=3))


def test_a_stem_for_rgb_is_that_of_torchvision() -> None:
    rgb = stem(3, 4, 3, bias=True)
    assert type(rgb) is nn.Conv2d
    assert (rgb.in_channels, rgb.kernel_size, rgb.stride, rgb.padding) == (3, (3, 3), (1, 1), (1, 1))


def test_grey_is_normalised_by_the_means_of_imagenet() -> None:
    assert GREY_MEAN[0] == pytest.approx(sum(IMAGENET_MEAN) / 3)
    assert GREY_STD[0] == pytest.approx(sum(IMAGENET_STD) / 3)
