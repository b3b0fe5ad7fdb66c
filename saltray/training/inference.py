"""Predict the probability of salt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from saltray.data.augment import crop_from, enlarge, pad_to
from saltray.models.stem import GreyStem
from saltray.training.precision import Precision, autocast, resolve_precision

PASS_PIXELS = {"cpu": 32 * 128**2, "cuda": 128 * 128**2}
"""Pixels that go through a network at a time: on a CPU, what its caches hold of a thin network; on a GPU, enough to
fill it."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and inference mode; afterwards the training mode of `model` is restored, also after an error."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def tile_logits(model: nn.Module, images: Tensor, input_size: int, precision: Precision, resize: int) -> Tensor:
    """Logits, float32 [B, H, W], of tiles, uint8 [B, H, W].

    For the model they are enlarged `resize` times and padded to `input_size`.

    Raises:
        ConfigError: the enlarged tiles are larger than `input_size`.
    """
    inputs = pad_to(enlarge(images, resize), input_size)[:, None].float() / 255
    with autocast(precision, images.device):
        logits = model(inputs)
    return reduce_logits(crop_from(logits[:, 0].float(), images.shape[1] * resize, images.shape[2] * resize), resize)


def reduce_logits(logits: Tensor, factor: int) -> Tensor:
    """[B, H, W] from [B, H * factor, W * factor]: the logit of the mean probability of each block."""
    if factor == 1:
        return logits
    blocks = F.pixel_unshuffle(logits[:, None], factor)
    # log(mean p) - log(mean (1 - p)) from the logits alone: where p rounds to 1, its own logit would be infinite.
    return F.logsigmoid(blocks).logsumexp(dim=1) - F.logsigmoid(-blocks).logsumexp(dim=1)


def frozen(model: nn.Module, precision: Precision) -> nn.Module:
    """A copy of a network that only predicts, and does so faster; probabilities differ by rounding alone.

    BatchNorm is folded into the convolution before it, and what is left to multiply by is stored channels last and in
    the precision of the forward pass, instead of being converted at each.

    Args:
        model: a network, in any mode; what it computes in eval mode is copied.
        precision: of the forward passes to come.
    """
    copy = deepcopy(model).eval().requires_grad_(requires_grad=False)
    _fold_norms(copy)
    device = next(copy.parameters()).device
    if resolve_precision(precision, device) == "bf16":
        for module in copy.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(torch.bfloat16)
    return copy.to(memory_format=torch.channels_last)


def _fold_norms(module: nn.Module) -> None:
    """Fold each BatchNorm after a convolution: in all our networks, the modules are registered in that order."""
    before: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            statistics = child.running_mean, child.running_var, child.eps, child.weight, child.bias
            transposed = isinstance(before, nn.ConvTranspose2d)
            if isinstance(before, GreyStem):  # it adds another convolution, without a bias
                unshifted = torch.zeros_like(child.running_mean), *statistics[1:4], torch.zeros_like(child.bias)
                before.offset = fuse_conv_bn_weights(before.offset, None, *unshifted)[0].data
            weight, bias = fuse_conv_bn_weights(before.weight, before.bias, *statistics, transpose=transposed)
            before.weight, before.bias = weight.requires_grad_(False), bias.requires_grad_(False)
            setattr(module, name, nn.Identity())
        else:
            _fold_norms(child)
        before = child


def predict_probabilities(
    models: Sequence[nn.Module],
    images: Tensor,
    *,
    input_size: int,
    resize: int = 1,
    batch_size: int | None = None,
    precision: Precision,
    tta: bool = True,
) -> Tensor:
    """Probability of salt at each pixel, averaged over networks.

    Args:
        models: networks for one class, on one device; their training mode is restored. `frozen` ones are faster.
        images: uint8 [N, H, W], 0..255, on any device.
        input_size: height and width of the networks' input, in pixels; tiles are padded to it by reflection.
        resize: factor by which the tiles are enlarged before; the probabilities are reduced by it.
        batch_size: number of images per forward pass, mirror images included; by default what suits the device.
        precision: arithmetic of the forward pass.
        tta: test-time augmentation: the mean of the probabilities for the tile and for its left-right mirror image.

    Returns:
        float32 [N, H, W] on the CPU, 0..1.

    Raises:
        ConfigError: the tiles are larger than `input_size`.
    """
    result = torch.empty(images.shape, dtype=torch.float32)
    for part, alone, mirrored in _batches(models, images, input_size, resize, batch_size, precision, tta=tta):
        result[part] = (alone + mirrored) / 2 if mirrored is not None else alone
    return result


def predict_both_ways(
    model: nn.Module, images: Tensor, *, input_size: int, resize: int = 1, batch_size: int, precision: Precision
) -> tuple[Tensor, Tensor]:
    """`predict_probabilities` of one network with test-time augmentation and without it, at the price of the first.

    Args:
        as for `predict_probabilities`.

    Returns:
        two of its results: with, and without.
    """
    both, single = (torch.empty(images.shape, dtype=torch.float32) for _ in range(2))
    models = [frozen(model, precision)]
    for part, alone, mirrored in _batches(models, images, input_size, resize, batch_size, precision, tta=True):
        assert mirrored is not None
        single[part], both[part] = alone, (alone + mirrored) / 2
    return both, single


def _batches(
    models: Sequence[nn.Module],
    images: Tensor,
    input_size: int,
    resize: int,
    batch_size: int | None,
    precision: Precision,
    *,
    tta: bool,
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """The place of each batch, its probabilities, and those of its mirror image, mirrored back, where `tta` is set."""
    device = next(models[0].parameters()).device
    size = batch_size or max(PASS_PIXELS[device.type] // input_size**2, 1)
    tiles = max(size // 2, 1) if tta else size
    for start in range(0, len(images), tiles):
        part = slice(start, start + tiles)
        batch = images[part].to(device)
        shown = torch.cat([batch, batch.flip(-1)]) if tta else batch
        total = torch.zeros(shown.shape, device=device)
        for model in models:
            with evaluating(model):  # not over the yield, which would leave the caller in inference mode
                total += tile_logits(model, shown, input_size, precision, resize).sigmoid()
        total /= len(models)
        yield part, total[: len(batch)], total[len(batch) :].flip(-1) if tta else None
