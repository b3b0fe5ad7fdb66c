"""The training loss: by hand, against a plain reference, and by finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saltray.config import LossConfig
from saltray.models.network import Output
from saltray.training.losses import batch_loss, tile_losses

TERMS = ("bce", "dice", "lovasz", "lovasz_elu", "focal")
every_term = pytest.mark.parametrize("term", TERMS)


def only(term: str, weight: float = 1.0, gamma: float = 2.0) -> LossConfig:
    return LossConfig(**{"bce": 0.0, "dice": 0.0} | {term: weight}, focal_gamma=gamma)


def as_tiles(*rows: list[float]) -> Tensor:
    """A row of pixels a tile: [B, 1, 1, P]."""
    return torch.tensor(rows)[:, None, None]


def draw(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Six tiles of 4x5 pixels, the first empty, the last full."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, 1, 4, 5, generator=generator, dtype=dtype)
    masks = (torch.rand(6, 1, 4, 5, generator=generator) < 0.4).to(dtype)
    masks[0], masks[-1] = 0, 1
    return logits, masks


LOG_3 = math.log(3)
LOGITS = as_tiles([0.0, LOG_3], [-LOG_3, 0.0])
"""Two tiles of two pixels, with probabilities 1/2, 3/4 and 1/4, 1/2."""
MASKS = as_tiles([1.0, 0.0], [0.0, 0.0])
BY_HAND = {
    "bce": [(math.log(2) + math.log(4)) / 2, (math.log(4 / 3) + math.log(2)) / 2],
    "dice": [1 - (2 * 0.5 + 1) / (1.25 + 1 + 1), 1 - (0 + 1) / (0.75 + 0 + 1)],
    # Tile 1 has the errors 1 and 1 + log 3: IoU falls from 1 to 1/2 by the second pixel, to 0 by the first. Tile 2 is
    # empty, with the errors 1 - log 3 and 1.
    "lovasz": [(1 + LOG_3) / 2 + 1 / 2, 1],
    "lovasz_elu": [(2 + LOG_3) / 2 + 2 / 2, 2],
    "focal": [
        (math.log(2) / 2**2 + math.log(4) * (3 / 4) ** 2) / 2,
        (math.log(4 / 3) / 4**2 + math.log(2) / 2**2) / 2,
    ],
}


@every_term
def test_a_term_by_hand(term: str) -> None:
    assert tile_losses(LOGITS, MASKS, only(term)).tolist() == pytest.approx(BY_HAND[term], rel=1e-6)


def test_the_loss_is_the_sum_of_the_terms_by_their_weights() -> None:
    weights = {"bce": 0.5, "dice": 2.0, "lovasz": 3.0, "lovasz_elu": 0.25, "focal": 7.0}
    expected = [sum(weights[term] * BY_HAND[term][tile] for term in TERMS) for tile in (0, 1)]
    assert tile_losses(LOGITS, MASKS, LossConfig(**weights)).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_default_is_bce_and_dice_to_the_bit() -> None:
    logits, masks = draw()
    logits.requires_grad_()
    flat, truth = logits.flatten(1), masks.flatten(1)
    bce = F.binary_cross_entropy_with_logits(flat, truth, reduction="none").mean(dim=1)
    probabilities = flat.sigmoid()
    overlap = (probabilities * truth).sum(dim=1)
    expected = bce + (1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + truth.sum(dim=1) + 1))
    found = tile_losses(logits, masks, LossConfig())
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(loss.mean(), logits)[0] for loss in (found, expected)))


def test_the_lovasz_hinge_of_three_pixels_by_hand() -> None:
    # Errors 3, 0.5, -1 of salt, no salt, salt: IoU falls from 1 to 1/2, 1/3 and 0.
    logits, masks = as_tiles([-2.0, -0.5, 2.0]), as_tiles([1.0, 0.0, 1.0])
    assert tile_losses(logits, masks, only("lovasz")).tolist() == pytest.approx([3 / 2 + 0.5 / 6])
    expected = 4 / 2 + 1.5 / 6 + math.exp(-1) / 3
    assert tile_losses(logits, masks, only("lovasz_elu")).tolist() == pytest.approx([expected])


def test_the_lovasz_hinge_of_a_full_tile_is_the_mean_error() -> None:
    logits = as_tiles([-2.0, 0.0, 0.5, 4.0])
    losses = tile_losses(logits, torch.ones_like(logits), only("lovasz"))
    assert losses.tolist() == pytest.approx([(3 + 1 + 0.5 + 0) / 4])


def test_the_lovasz_hinge_of_an_empty_tile_lowers_its_largest_logit() -> None:
    logits = as_tiles([-2.0, 0.5, -0.5]).requires_grad_()
    loss = tile_losses(logits, torch.zeros_like(logits), only("lovasz")).sum()
    assert float(loss.detach()) == pytest.approx(1.5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [0, 1, 0]


def test_focal_loss_without_focus_is_the_cross_entropy() -> None:
    logits, masks = draw()
    plain = tile_losses(logits, masks, only("bce"))
    assert torch.allclose(tile_losses(logits, masks, only("focal", gamma=0)), plain)
    assert (tile_losses(logits, masks, only("focal", gamma=1)) < plain).all()


@every_term
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_predictions_have_finite_losses_and_gradients(term: str, gamma: float) -> None:
    masks = as_tiles([1.0, 0.0], [0.0, 0.0], [1.0, 1.0])
    for sign, expected in ((1, [0.0, 0.0, 0.0]), (-1, WRONG[term])):
        logits = (sign * 200 * (2 * masks - 1)).requires_grad_()
        losses = tile_losses(logits, masks, only(term, gamma=gamma))
        assert losses.tolist() == pytest.approx(expected)
        losses.sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


WRONG = {
    "bce": [200] * 3,
    "dice": [1 - 1 / 3, 1 - 1 / 3, 1 - 1 / 3],
    "lovasz": [201] * 3,
    "lovasz_elu": [202] * 3,
    "focal": [200] * 3,
}
"""With a logit of 200 for the opposite of the truth."""


@every_term
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_those_of_finite_differences(term: str, gamma: float) -> None:
    logits, masks = draw(dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tile_losses(x, masks, only(term, gamma=gamma)), (logits,))


def one_minus_iou(wrong: set[int], salt: set[int]) -> float:
    """Of the prediction that is wrong at these pixels."""
    predicted = salt ^ wrong
    return 1 - len(salt & predicted) / len(salt | predicted) if salt | predicted else 0.0


def plain_lovasz(logits: list[float], masks: list[float], positive: Callable[[float], float]) -> float:
    """The definition of the extension, pixel by pixel."""
    errors = [1 - logit if mask else 1 + logit for logit, mask in zip(logits, masks, strict=True)]
    salt = {at for at, mask in enumerate(masks) if mask}
    wrong: set[int] = set()
    loss = 0.0
    for at in sorted(range(len(errors)), key=errors.__getitem__, reverse=True):
        before = one_minus_iou(wrong, salt)
        wrong.add(at)
        loss += positive(errors[at]) * (one_minus_iou(wrong, salt) - before)
    return loss


PLAIN: dict[str, Callable[[list[float], list[float]], float]] = {
    "bce": lambda x, t: math.fsum(map(cross_entropy, x, t)) / len(x),
    "dice": lambda x, t: (
        1
        - (2 * math.fsum(a * b for a, b in zip(map(sigmoid, x), t, strict=True)) + 1)
        / (math.fsum(map(sigmoid, x)) + math.fsum(t) + 1)
    ),
    "lovasz": lambda x, t: plain_lovasz(x, t, lambda error: max(error, 0)),
    "lovasz_elu": lambda x, t: plain_lovasz(x, t, lambda error: error + 1 if error > 0 else math.exp(error)),
    "focal": lambda x, t: (
        math.fsum((1 - math.exp(-cross_entropy(a, b))) ** 2 * cross_entropy(a, b) for a, b in zip(x, t, strict=True))
        / len(x)
    ),
}


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def cross_entropy(logit: float, mask: float) -> float:
    return -math.log(sigmoid(logit if mask else -logit))


@every_term
@pytest.mark.parametrize("step", [0.0, 0.5], ids=["all different", "many ties"])
def test_a_batch_is_its_tiles_each_by_the_definition(term: str, step: float) -> None:
    logits, masks = draw()
    if step:
        logits = (logits / step).round() * step
    losses = tile_losses(logits, masks, only(term))
    alone = [float(tile_losses(logits[at : at + 1], masks[at : at + 1], only(term))) for at in range(len(logits))]
    assert losses.tolist() == pytest.approx(alone, rel=1e-6)
    plain = [PLAIN[term](x, t) for x, t in zip(logits.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True)]
    assert losses.tolist() == pytest.approx(plain, rel=1e-5)


@every_term
def test_half_precision_logits_are_reduced_in_float32(term: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 128, 128, generator=generator).bfloat16().requires_grad_()
    masks = (torch.rand(2, 1, 128, 128, generator=generator) < 0.3).float()
    losses = tile_losses(logits, masks, only(term))
    assert losses.dtype == torch.float32
    assert torch.equal(losses, tile_losses(logits.float(), masks, only(term)))
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@every_term
def test_no_value_is_read_from_the_device(term: str) -> None:
    """Tensors without values refuse that."""
    logits = torch.empty(3, 1, 8, 8, device="meta", requires_grad=True)
    output = Output(logits, (logits, logits), logits.mean(dim=(1, 2, 3)))
    batch_loss(output, torch.empty(3, 1, 8, 8, device="meta"), only(term)).backward()  # type: ignore[no-untyped-call]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_term
def test_a_gpu_gives_the_loss_and_gradient_of_the_cpu(term: str) -> None:
    logits, masks = draw()
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        there = logits.to(device).requires_grad_()
        losses.append(tile_losses(there, masks.to(device), only(term)))
        gradients.append(torch.autograd.grad(losses[-1].sum(), there)[0].cpu())
    assert losses[1].tolist() == pytest.approx(losses[0].tolist(), rel=1e-5)
    assert torch.allclose(*gradients, atol=1e-5)


# Deep supervision


def deep_output(seed: int) -> Output:
    logits, first, second = (draw(seed + at)[0] for at in range(3))
    return Output(logits, (first, second), second.mean(dim=(1, 2, 3)))


def part_of(output: Output, part: slice) -> Output:
    return Output(output.logits[part], tuple(side[part] for side in output.sides), output.has_salt[part])


def test_a_tensor_has_the_mean_of_its_tiles() -> None:
    loss = batch_loss(LOGITS, MASKS, LossConfig(dice=0, sides=9, has_salt=9))
    assert float(loss) == pytest.approx(sum(BY_HAND["bce"]) / 2)


def test_side_outputs_and_head_are_added_by_their_weights() -> None:
    output = Output(LOGITS, (LOGITS, 0 * LOGITS), torch.tensor([LOG_3, LOG_3]))
    main = sum(BY_HAND["bce"]) / 2
    sides = (BY_HAND["bce"][0] + math.log(2)) / 2  # of the first tile: the second is empty
    head = (math.log(4 / 3) + math.log(4)) / 2
    loss = batch_loss(output, MASKS, LossConfig(dice=0, sides=0.5, has_salt=0.25))
    assert float(loss) == pytest.approx(main + 0.5 * sides + 0.25 * head)
    assert float(batch_loss(output, MASKS, LossConfig(dice=0, sides=0, has_salt=0))) == pytest.approx(main)


@every_term
def test_side_outputs_of_empty_tiles_are_not_trained(term: str) -> None:
    _, masks = draw()
    sides = [side.requires_grad_() for side in deep_output(1).sides]
    output = Output(masks - 0.5, tuple(sides), masks.mean(dim=(1, 2, 3)))
    batch_loss(output, masks, only(term)).backward()  # type: ignore[no-untyped-call]
    for side in sides:
        assert side.grad is not None
        assert not side.grad[0].any()
        assert side.grad[1:].flatten(1).any(dim=1).all()


def test_a_batch_without_salt_has_no_loss_of_the_side_outputs() -> None:
    output, masks = deep_output(1), torch.zeros(6, 1, 4, 5)
    without = output._replace(sides=())
    assert float(batch_loss(output, masks, LossConfig())) == float(batch_loss(without, masks, LossConfig()))


@every_term
def test_the_mean_over_equal_parts_is_the_loss_of_the_batch(term: str) -> None:
    """Parts with 2 and 3 tiles with salt: a mean over those tiles alone would depend on the parts."""
    output, (_, masks) = deep_output(1), draw()
    config = LossConfig(**{"bce": 0.0, "dice": 0.0} | {term: 1.0}, sides=3, has_salt=2)
    parts = [
        batch_loss(
            Output(output.logits[part], tuple(s[part] for s in output.sides), output.has_salt[part]),
            masks[part],
            config,
        )
        for part in (slice(3), slice(3, 6))
    ]
    assert float(sum(parts)) / 2 == pytest.approx(float(batch_loss(output, masks, config)), rel=1e-6)


def test_half_precision_outputs_have_a_loss_in_float32() -> None:
    output, (_, masks) = deep_output(1), draw()
    half = Output(output.logits.bfloat16(), tuple(s.bfloat16() for s in output.sides), output.has_salt.bfloat16())
    sides = tuple(side.float() for side in half.sides)
    loss = batch_loss(half, masks, LossConfig())
    assert loss.dtype == torch.float32
    assert loss == batch_loss(Output(half.logits.float(), sides, half.has_salt.float()), masks, LossConfig())
