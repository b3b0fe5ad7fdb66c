"""Synthetic tiles look like real ones, and depend on nothing but their numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saltray.data.synthetic_tiles import FEW, cuts, draw_tile, whole_id


def test_shares_of_each_kind(synth_images: NDArray[np.uint8], synth_salt: NDArray[np.bool_]) -> None:
    pixels = synth_salt.sum(axis=(1, 2))
    blank = synth_images.max(axis=(1, 2)) == 0
    columns = synth_salt.mean(axis=1)
    vertical = ((columns == 0) | (columns == 1)).all(axis=1) & (pixels > 0)
    assert 0.37 < (pixels == 0).mean() < 0.41
    assert 0.01 < blank.mean() < 0.03
    assert not pixels[blank].any()
    assert 0.02 < vertical.mean() < 0.04
    assert 0.005 < ((pixels > 0) & (pixels <= 10)).mean() < 0.03
    assert pixels.max() < 101 * 101
    assert 0.2 < synth_salt.mean() < 0.3
    assert len(np.unique(synth_images[~blank], axis=0)) == (~blank).sum()


def test_statistics_of_the_images(synth_images: NDArray[np.uint8]) -> None:
    grey = synth_images / 255
    assert 0.45 < grey.mean() < 0.49
    assert 0.14 < grey.std() < 0.18
    clipped = ((synth_images == 0) | (synth_images == 255))[synth_images.max(axis=(1, 2)) > 0]
    assert clipped.mean() < 0.01


def test_layers_are_flat_rather_than_steep(synth_images: NDArray[np.uint8]) -> None:
    down, across = (np.abs(np.diff(synth_images.astype(float), axis=axis)).mean() for axis in (1, 2))
    assert 1.2 * across < down < 4 * across


def test_salt_differs_in_texture_and_not_in_brightness(
    synth_images: NDArray[np.uint8], synth_salt: NDArray[np.bool_]
) -> None:
    large = [(i / 255.0, m) for i, m in zip(synth_images, synth_salt, strict=True) if 0.1 < m.mean() < 0.9 and i.any()]
    brighter = np.array([image[mask].mean() - image[~mask].mean() for image, mask in large])
    calmer = np.array([image[mask].std() < image[~mask].std() for image, mask in large])
    assert abs(brighter.mean()) < 0.01
    assert brighter.std() < 0.04
    assert 0.6 < calmer.mean() < 0.98  # a hint, but not the answer


def test_the_parts_differ() -> None:
    train, test = draw_tile(1), draw_tile(1, part="test")
    assert train.id != test.id
    assert (train.image != test.image).any()


@pytest.mark.parametrize(("size", "expected"), [(101, 1), (51, 1), (50, 4), (32, 9), (1, 10201)])
def test_small_tiles_are_cut_from_whole_ones(size: int, expected: int) -> None:
    assert cuts(size) == expected
    whole = draw_tile(3, seed=5)
    small = [draw_tile(3 * expected + cut, seed=5, size=size) for cut in (0, expected - 1)]
    rows = 101 // size
    for tile, at in zip(small, (0, rows - 1), strict=True):
        inside = (slice(at * size, (at + 1) * size),) * 2
        np.testing.assert_array_equal(tile.image, whole.image[inside])
        np.testing.assert_array_equal(tile.mask, whole.mask[inside])
        assert tile.id.startswith(whole.id)
    assert small[0].id <= small[1].id


def test_ids_are_short_for_few_tiles_and_differ_for_many() -> None:
    ids = [whole_id(number, 0, "train") for number in range(200_000)]
    assert {len(each) for each in ids[:FEW]} == {10}
    assert len(set(ids)) == len(ids)  # of which two are the same in their first ten digits
