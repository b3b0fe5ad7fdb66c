"""From a trained network and tiles to probabilities."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saltray.data.augment import crop_from, pad_to
from saltray.training.precision import Precision, autocast


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards `model` is in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def tile_logits(model: nn.Module, images: Tensor, input_size: int, precision: Precision) -> Tensor:
    """Logits, float32 [B, H, W], of uint8 tiles [B, H, W]: padded to `input_size` for the model, then cropped back."""
    inputs = pad_to(images, input_size)[:, None].float() / 255
    with autocast(precision, images.device):
        logits = model(inputs)
    return crop_from(logits[:, 0].float(), images.shape[1], images.shape[2])


def predict_probabilities(
    model: nn.Module, images: Tensor, *, input_size: int, batch_size: int, precision: Precision, tta: bool = True
) -> Tensor:
    """Probability of salt at each pixel.

    Args:
        model: a network for one class; its mode is left as it was.
        images: uint8 [N, H, W] on any device.
        input_size: height and width that the network sees; tiles are padded to it by reflection.
        batch_size: tiles a forward pass.
        precision: of the forward pass.
        tta: average the probabilities of the tile and of its mirror image (left to right).

    Returns:
        float32 [N, H, W] on the CPU, 0..1.

    Raises:
        ConfigError: the tiles are larger than `input_size`.
    """
    device = next(model.parameters()).device
    result = torch.empty(images.shape, dtype=torch.float32)
    with evaluating(model):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size].to(device)
            probabilities = tile_logits(model, batch, input_size, precision).sigmoid()
            if tta:
                mirrored = tile_logits(model, batch.flip(-1), input_size, precision).sigmoid()
                probabilities = (probabilities + mirrored.flip(-1)) / 2
            result[start : start + batch_size] = probabilities
    return result
