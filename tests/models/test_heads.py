"""What follows a decoder: hypercolumn and deep supervision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.models.heads import Hypercolumn, Supervision, upsample

CHANNELS = (5, 4, 3)


@pytest.fixture
def stages() -> list[Tensor]:
    """Outputs of a decoder, coarse to fine."""
    return [torch.rand(2, channels, 4 << level, 6 << level) for level, channels in enumerate(CHANNELS)]


def drawn(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.normal_(p)


@pytest.mark.parametrize("batchnorm", [True, False])
def test_hypercolumn_starts_as_the_last_stage(stages: list[Tensor], batchnorm: bool) -> None:
    part = Hypercolumn(CHANNELS, batchnorm=batchnorm).eval()
    with torch.no_grad():
        torch.testing.assert_close(part(stages), stages[-1])


def test_hypercolumn_merges_all_stages(stages: list[Tensor]) -> None:
    part = Hypercolumn(CHANNELS, batchnorm=False)
    drawn(part)
    with torch.no_grad():
        columns = [stages[-1]]
        for reduce, stage in zip(part.reduce, stages, strict=False):
            assert isinstance(reduce, nn.Conv2d)
            large = F.interpolate(stage, (16, 24), mode="bilinear")
            columns.append(F.conv2d(large, reduce.weight, reduce.bias))
        merge = part.merge.conv
        expected = F.conv2d(torch.cat(columns, 1), merge.weight, merge.bias, padding=1).clamp(min=0)
        torch.testing.assert_close(part(stages), expected, rtol=1e-4, atol=1e-4)


def test_supervision_scores_each_earlier_stage_and_the_mean_of_the_bottom(stages: list[Tensor]) -> None:
    part = Supervision(6, CHANNELS, num_classes=1)
    drawn(part)
    bottom = torch.rand(2, 6, 2, 3)
    with torch.no_grad():
        sides, has_salt = part(bottom, stages)
        assert len(sides) == 2
        for side, convolution, stage in zip(sides, part.sides, stages, strict=False):
            assert side.shape == (2, 1, 16, 24)
            torch.testing.assert_close(side, F.interpolate(convolution(stage), (16, 24), mode="bilinear"))
        expected = (bottom.mean((2, 3)) * part.has_salt.weight[0]).sum(1) + part.has_salt.bias
        torch.testing.assert_close(has_salt, expected)


def test_upsample_is_bilinear_at_any_ratio() -> None:
    x = torch.rand(1, 2, 3, 3)
    assert torch.equal(upsample(x, torch.empty(1, 7, 12, 6)), F.interpolate(x, (12, 6), mode="bilinear"))
