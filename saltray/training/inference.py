"""Predict the probability of salt."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.data.augment import crop_from, enlarge, pad_to
from saltray.training.precision import Precision, autocast


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


def predict_probabilities(
    model: nn.Module,
    images: Tensor,
    *,
    input_size: int,
    resize: int = 1,
    batch_size: int,
    precision: Precision,
    tta: bool = True,
) -> Tensor:
    """Probability of salt at each pixel.

    Args:
        model: a network for one class; its training mode is restored.
        images: uint8 [N, H, W], 0..255, on any device.
        input_size: height and width of the network's input, in pixels; tiles are padded to it by reflection.
        resize: factor by which the tiles are enlarged before; the probabilities are reduced by it.
        batch_size: number of tiles per forward pass.
        precision: arithmetic of the forward pass.
        tta: test-time augmentation: the mean of the probabilities for the tile and for its left-right mirror image.

    Returns:
        float32 [N, H, W] on the CPU, 0..1.

    Raises:
        ConfigError: the tiles are larger than `input_size`.
    """
    result = torch.empty(images.shape, dtype=torch.float32)
    for part, alone, mirrored in _batches(model, images, input_size, resize, batch_size, precision, tta=tta):
        result[part] = (alone + mirrored) / 2 if mirrored is not None else alone
    return result


def predict_both_ways(
    model: nn.Module, images: Tensor, *, input_size: int, resize: int = 1, batch_size: int, precision: Precision
) -> tuple[Tensor, Tensor]:
    """`predict_probabilities` with test-time augmentation and without it, at the price of the first.

    Args:
        as for `predict_probabilities`.

    Returns:
        two of its results: with, and without.
    """
    both, single = (torch.empty(images.shape, dtype=torch.float32) for _ in range(2))
    for part, alone, mirrored in _batches(model, images, input_size, resize, batch_size, precision, tta=True):
        assert mirrored is not None
        single[part], both[part] = alone, (alone + mirrored) / 2
    return both, single


def _batches(
    model: nn.Module, images: Tensor, input_size: int, resize: int, batch_size: int, precision: Precision, *, tta: bool
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """The place of each batch, its probabilities, and those of its mirror image, mirrored back, where `tta` is set."""
    device = next(model.parameters()).device
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = images[part].to(device)
        with evaluating(model):  # not over the yield, which would leave the caller in inference mode
            alone, mirrored = tile_logits(model, batch, input_size, precision, resize).sigmoid(), None
            if tta:
                mirrored = tile_logits(model, batch.flip(-1), input_size, precision, resize).sigmoid().flip(-1)
        yield part, alone, mirrored
