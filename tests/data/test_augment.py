"""Padding and augmentation, compared with numpy's padding and a slow reference that samples pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from saltray.config import AugmentConfig
from saltray.data.augment import Augmenter, crop_from, enlarge, pad_to
from saltray.data.random import random_uniform, tile_keys
from saltray.errors import ConfigError

UNCHANGED = AugmentConfig(flip=0, rotate=0, scale=0, shift=0, brightness=0, contrast=0)
SIZES = [(101, 101, 128), (50, 40, 64), (20, 5, 64), (1, 2, 16), (64, 64, 64), (129, 3, 192)]


def batch(count: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, masks and keys of random tiles."""
    rng = np.random.default_rng(count * height + width)
    images = torch.from_numpy(rng.integers(0, 256, (count, height, width), dtype=np.uint8))
    masks = torch.from_numpy(rng.integers(0, 2, (count, height, width), dtype=np.uint8))
    return images, masks, tile_keys(f"tile{i}" for i in range(count))


def numpy_padded(tiles: Tensor, size: int) -> NDArray[np.uint8]:
    height, width = tiles.shape[1:]
    top, left = (size - height) // 2, (size - width) // 2
    margins = ((0, 0), (top, size - height - top), (left, size - width - left))
    return np.pad(tiles.numpy(), margins, mode="reflect")


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_padding_equals_numpys_and_can_be_undone(height: int, width: int, size: int) -> None:
    images = batch(3, height, width)[0]
    padded = pad_to(images, size)
    assert padded.dtype == torch.uint8
    np.testing.assert_array_equal(padded.numpy(), numpy_padded(images, size))
    assert torch.equal(crop_from(padded, height, width), images)
    assert torch.equal(crop_from(padded[:, None], height, width), images[:, None])


def test_101_pads_13_before_and_14_after() -> None:
    padded = pad_to(torch.arange(101, dtype=torch.uint8).expand(1, 101, 101), 128)[0, 0]
    assert padded[:14].tolist() == [*range(13, 0, -1), 0]
    assert padded[-15:].tolist() == [100, *range(99, 85, -1)]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_no_augmentation_is_exact_padding(height: int, width: int, size: int, flip: float) -> None:
    images, masks, keys = batch(3, height, width)
    augmenter = Augmenter(AugmentConfig(flip=flip, rotate=0, scale=0, shift=0, brightness=0, contrast=0), size, 0)
    changed, moved = augmenter(images, masks, keys, 5)
    if flip:
        images, masks = images.flip(2), masks.flip(2)
    assert torch.equal(changed, pad_to(images, size)[:, None].float() / 255)
    assert torch.equal(moved, pad_to(masks, size)[:, None].float())


def test_an_enlarged_tile_keeps_its_place_and_its_mean() -> None:
    images, _, _ = batch(2, 5, 7)
    assert enlarge(images, 1) is images
    doubled = enlarge(images, 2)
    assert doubled.shape == (2, 10, 14)
    # Between two pixels by a quarter and three quarters, constant beyond the outer ones: as cv2.resize does it.
    first, second = images[0, 0, :2].tolist()
    expected = [first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second]
    assert doubled[0, 0, :3].tolist() == pytest.approx(expected)
    assert torch.equal(enlarge(images.flip(2), 2), doubled.flip(2))


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [2, 3])
def test_an_enlarged_tile_without_augmentation_is_enlarged_and_padded(factor: int, flip: float) -> None:
    images, masks, keys = batch(3, 21, 18)
    config = AugmentConfig(flip=flip, rotate=0, scale=0, shift=0, brightness=0, contrast=0)
    changed, moved = Augmenter(config, 80, 0, factor)(images, masks, keys, 5)
    if flip:
        images, masks = images.flip(2), masks.flip(2)
    torch.testing.assert_close(changed, pad_to(enlarge(images, factor), 80)[:, None] / 255, rtol=0, atol=1e-5)
    assert torch.equal(moved, (pad_to(enlarge(masks, factor), 80)[:, None] > 0.5).float())


def test_image_and_mask_get_the_same_change() -> None:
    blocks = torch.zeros(8, 101, 101, dtype=torch.uint8)
    for i in range(8):
        blocks[i, 10 * i : 10 * i + 25, 20:70] = 1
    config = AugmentConfig(rotate=40, scale=0.4, shift=0.3, brightness=0, contrast=0)
    images, masks = Augmenter(config, 128, 1)(blocks * 255, blocks, tile_keys("abcdefgh"), 0)
    assert torch.equal(images > 0.5, masks > 0.5)
    assert not torch.equal(masks, pad_to(blocks, 128)[:, None].float())


def slow_augmented(
    image: NDArray[np.uint8], draws: list[float], config: AugmentConfig, size: int
) -> NDArray[np.float64]:
    """One tile, pixel by pixel, from the definition."""
    flip, rotate, scale, shift_y, shift_x, brightness, contrast = draws
    if flip < config.flip:
        image = image[:, ::-1]
    reach = 400
    height, width = image.shape
    extended = np.pad(image.astype(float), reach, mode="reflect")
    angle, zoom = math.radians(config.rotate * (2 * rotate - 1)), 1 + config.scale * (2 * scale - 1)
    centre = (size - 1) / 2
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            down, right = (i - centre) / zoom, (j - centre) / zoom
            y = math.cos(angle) * down - math.sin(angle) * right + centre + config.shift * size * (2 * shift_y - 1)
            x = math.sin(angle) * down + math.cos(angle) * right + centre + config.shift * size * (2 * shift_x - 1)
            y, x = y - (size - height) // 2 + reach, x - (size - width) // 2 + reach
            top, left = int(y), int(x)
            fy, fx = y - top, x - left
            corner = extended[top : top + 2, left : left + 2]
            result[i, j] = np.array([1 - fy, fy]) @ corner @ np.array([1 - fx, fx])
    gain, offset = 1 + config.contrast * (2 * contrast - 1), config.brightness * (2 * brightness - 1)
    return np.clip((result / 255 - 0.5) * gain + 0.5 + offset, 0, 1)


@pytest.mark.parametrize(("height", "width", "size"), [(9, 7, 16), (13, 20, 20)])
def test_all_changes_equal_the_slow_reference(height: int, width: int, size: int) -> None:
    images, masks, keys = batch(6, height, width)
    config = AugmentConfig(flip=0.5, rotate=30, scale=0.3, shift=0.2, brightness=0.3, contrast=0.4)
    changed, moved = Augmenter(config, size, 7)(images, masks, keys, 3)
    draws = random_uniform(keys[:, None], 7, 3, torch.arange(7)).tolist()
    assert {draw[0] < 0.5 for draw in draws} == {True, False}
    plain = AugmentConfig(flip=0.5, rotate=30, scale=0.3, shift=0.2, brightness=0, contrast=0)
    for i in range(6):
        np.testing.assert_allclose(
            changed[i, 0].numpy(), slow_augmented(images[i].numpy(), draws[i], config, size), atol=1e-4
        )
        soft = slow_augmented(masks[i].numpy() * np.uint8(255), draws[i], plain, size)
        sure = abs(soft - 0.5) > 1e-4
        np.testing.assert_array_equal(moved[i, 0].numpy()[sure], (soft > 0.5)[sure])


def test_a_tile_gets_the_same_change_in_any_batch() -> None:
    images, masks, keys = batch(12, 50, 50)
    augmenter = Augmenter(AugmentConfig(), 64, 3)
    whole = augmenter(images, masks, keys, 2)
    order = torch.tensor([7, 0, 11, 3, 7])
    part = augmenter(images[order], masks[order], keys[order], 2)
    assert torch.equal(part[0], whole[0][order])
    assert torch.equal(part[1], whole[1][order])
    assert torch.equal(augmenter(images[3:4], masks[3:4], keys[3:4], 2)[0], whole[0][3:4])


def test_each_epoch_seed_and_tile_has_its_own_change() -> None:
    image = torch.arange(100, dtype=torch.uint8).view(1, 10, 10).expand(2, 10, 10).contiguous()
    keys = tile_keys(["a", "b"])
    results = [
        row
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
        for row in Augmenter(AugmentConfig(), 16, seed)(image, image % 2, keys, epoch)[0]
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_values_stay_in_range() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(2, 8, 8).repeat(50, 1, 1)
    config = AugmentConfig(brightness=0.9, contrast=0.9)
    images, masks = Augmenter(config, 16, 0)(extremes, extremes // 255, torch.arange(100), 0)
    assert images.dtype == masks.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert set(masks.unique().tolist()) == {0, 1}


def test_a_tile_larger_than_the_input_is_refused() -> None:
    images, masks, keys = batch(1, 101, 40)
    message = r"tiles of 101x40 pixels are larger than train.input_size 64; raise it to 101"
    with pytest.raises(ConfigError, match=message):
        pad_to(images, 64)
    with pytest.raises(ConfigError, match=message):
        Augmenter(UNCHANGED, 64, 0)(images, masks, keys, 0)
    with pytest.raises(ConfigError, match="tiles of 202x80 pixels are larger than train.input_size 128"):
        Augmenter(UNCHANGED, 128, 0, 2)(images, masks, keys, 0)
