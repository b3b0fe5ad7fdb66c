"""The training loss, by hand."""

import math

import pytest
import torch

from saltray.config import TrainConfig
from saltray.training.losses import tile_losses

LOGITS = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]])[:, None, None]
"""Two tiles of two pixels, with probabilities 1/2, 3/4 and 1/4, 1/2."""
MASKS = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[:, None, None]

BCE = [(math.log(2) + math.log(4)) / 2, (math.log(4 / 3) + math.log(2)) / 2]
DICE = [1 - (2 * 0.5 + 1) / (1.25 + 1 + 1), 1 - (0 + 1) / (0.75 + 0 + 1)]


@pytest.mark.parametrize(("bce", "dice"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_loss_by_hand(bce: float, dice: float) -> None:
    expected = [bce * b + dice * d for b, d in zip(BCE, DICE, strict=True)]
    losses = tile_losses(LOGITS, MASKS, TrainConfig(bce=bce, dice=dice))
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_certain_predictions_have_finite_losses() -> None:
    config = TrainConfig()
    masks = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[:, None, None]
    assert tile_losses(200 * (2 * masks - 1), masks, config).tolist() == [0, 0]
    wrong = tile_losses(200 * (1 - 2 * masks), masks, config)
    assert wrong.tolist() == pytest.approx([200 + 1 - 1 / 3, 200 + 1 - 1 / 3])


def test_half_precision_logits_are_reduced_in_float32() -> None:
    logits = torch.full((1, 1, 128, 128), 0.5, dtype=torch.bfloat16, requires_grad=True)
    loss = tile_losses(logits, torch.ones(1, 1, 128, 128), TrainConfig(dice=0))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
