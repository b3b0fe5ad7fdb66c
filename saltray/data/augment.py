"""From stored tiles to the network's input: padding, and augmentation for training. All on the tiles' device."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saltray.config import AugmentConfig
from saltray.data.random import random_uniform
from saltray.errors import ConfigError


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Tiles [N, H, W] as [N, H * factor, W * factor], float32, by bilinear interpolation; themselves for a factor of 1.

    A pixel becomes a block with the same centre, and beyond the outer pixels' centres the tile is constant, as in
    OpenCV's and torch's resize.
    """
    if factor == 1:
        return images
    return F.interpolate(images[:, None].float(), scale_factor=factor, mode="bilinear", align_corners=False)[:, 0]


def pad_to(images: Tensor, size: int) -> Tensor:
    """Centre tiles [N, H, W] in [N, size, size], padded by reflection about the edge pixels, repeated if necessary.

    If the margin is odd, the extra pixel goes below and to the right (101 to 128: 13 before, 14 after).

    Raises:
        ConfigError: a tile is larger than `size`.
    """
    height, width = images.shape[-2:]
    top, left = _margins(height, width, size)
    steps = torch.arange(size, device=images.device)
    rows, columns = _reflect(steps - top, height), _reflect(steps - left, width)
    return images[:, rows[:, None], columns]


def crop_from(padded: Tensor, height: int, width: int) -> Tensor:
    """Undo `pad_to`: the tile [..., height, width] in the middle of [..., size, size]."""
    top, left = _margins(height, width, padded.shape[-1])
    return padded[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Augmenter:
    """Random flip, rotation, scale, shift, brightness and contrast; each tile is resampled once.

    Every random number is a hash of (tile key, seed, epoch, parameter): in an epoch a tile is changed in the same way
    in any batch, on any rank and device (up to floating-point rounding). With all amounts at 0 the result is that of
    `pad_to`, bit for bit.

    Args:
        config: amount of each change.
        size: height and width of the result, in pixels.
        seed: seed of the random numbers.
        resize: factor by which the tiles are enlarged first, as by `enlarge`.
    """

    config: AugmentConfig
    size: int
    seed: int
    resize: int = 1

    def __call__(self, images: Tensor, masks: Tensor, keys: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: uint8 [B, H, W], 0..255.
            masks: uint8 [B, H, W], 0 or 1.
            keys: int64 [B], the `tile_keys` of the tiles.
            epoch: number of the epoch.

        Returns:
            float32 [B, 1, size, size] images in 0..1, and masks of 0 and 1 with the same geometric change.

        Raises:
            ConfigError: the enlarged tiles are larger than `size`.
        """
        height, width = images.shape[1] * self.resize, images.shape[2] * self.resize
        draws = random_uniform(keys[:, None], self.seed, epoch, torch.arange(7, device=keys.device))
        flip, rotate, scale, shift_y, shift_x, brightness, contrast = draws.t()[..., None, None]
        y, x = self._source(
            height,
            width,
            _symmetric(rotate),
            _symmetric(scale),
            _symmetric(shift_y),
            _symmetric(shift_x),
        )
        x = torch.where(flip < self.config.flip, width - 1 - x, x)
        moved = _sample(torch.stack([images, masks], dim=1), y, x, self.resize)
        gain = 1 + self.config.contrast * _symmetric(contrast)
        offset = (1 - gain) / 2 + self.config.brightness * _symmetric(brightness)  # contrast keeps mid-grey fixed
        image = moved[:, :1] / 255 * gain[:, None] + offset[:, None]
        return image.clamp(0, 1), (moved[:, 1:] > 0.5).float()

    def _source(
        self, height: int, width: int, rotate: Tensor, scale: Tensor, shift_y: Tensor, shift_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The position that each pixel of the result is sampled from: y and x in the enlarged tile, [B, size, size].

        The four random numbers are [B, 1, 1] in -1..1; rotation and scale keep the centre of the result fixed.
        """
        top, left = _margins(height, width, self.size)
        centre = (self.size - 1) / 2
        offset = torch.arange(self.size, device=rotate.device) - centre
        down, right = offset[:, None], offset
        angle = rotate * math.radians(self.config.rotate)
        zoom = 1 + scale * self.config.scale
        cosine, sine = angle.cos() / zoom, angle.sin() / zoom
        reach = self.config.shift * self.size
        y = cosine * down - sine * right + shift_y * reach
        x = sine * down + cosine * right + shift_x * reach
        return y + (centre - top), x + (centre - left)


def _symmetric(draw: Tensor) -> Tensor:
    """Map random numbers from [0, 1) to [-1, 1)."""
    return 2 * draw - 1


def _sample(tiles: Tensor, y: Tensor, x: Tensor, resize: int) -> Tensor:
    """Bilinear samples [B, C, S, S] of uint8 [B, C, H, W], enlarged and extended by reflection.

    The positions y and x, [B, S, S], are in pixels of the enlarged tile.
    """
    height, width = tiles.shape[-2:]
    y, x = (
        _unresized(_reflect(y, height * resize), height, resize),
        _unresized(_reflect(x, width * resize), width, resize),
    )
    # On a canvas of 2**k + 1 pixels grid_sample's normalised coordinates represent whole pixels exactly.
    half = 2 ** max(0, (max(height, width) - 2).bit_length() - 1)
    canvas = F.pad(tiles.float(), (0, 2 * half + 1 - width, 0, 2 * half + 1 - height))
    grid = torch.stack([x, y], dim=-1) / half - 1
    # No sample is outside the tile; "border" only avoids cuDNN's sampler, which rounds differently.
    return F.grid_sample(canvas, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _unresized(position: Tensor, length: int, resize: int) -> Tensor:
    """The positions in a tile of this length of those in the tile enlarged from it."""
    return position if resize == 1 else ((position + 0.5) / resize - 0.5).clamp(0, length - 1)


def _reflect(position: Tensor, length: int) -> Tensor:
    """Map any positions to 0..length-1 by reflection about the first and the last pixel."""
    if length == 1:
        return torch.zeros_like(position)
    period = 2 * (length - 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position)


def _margins(height: int, width: int, size: int) -> tuple[int, int]:
    """Pixels above and to the left of a tile that is centred in a square of `size`."""
    if max(height, width) > size:
        raise ConfigError(
            f"tiles of {height}x{width} pixels are larger than train.input_size {size}; "
            f"raise it to {max(height, width)} or to the next size that the network accepts"
        )
    return (size - height) // 2, (size - width) // 2
