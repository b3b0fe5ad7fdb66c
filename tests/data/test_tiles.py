"""Tiles are in order of their ids, and stay so."""

import numpy as np
import pytest

from saltray.data.tiles import Tiles

IMAGES = np.arange(3 * 2 * 5, dtype=np.uint8).reshape(3, 2, 5)
TILES = Tiles(("a", "b", "c"), IMAGES, IMAGES % 2)


def test_size() -> None:
    assert (len(TILES), TILES.height, TILES.width) == (3, 2, 5)


@pytest.mark.parametrize("index", [np.array([2, 0]), np.array([True, False, True])])
def test_select_keeps_the_order_of_ids(index: np.ndarray) -> None:
    some = TILES.select(index)
    assert some.ids == ("a", "c")
    assert some.masks is not None
    np.testing.assert_array_equal(some.images, IMAGES[[0, 2]])
    np.testing.assert_array_equal(some.masks, IMAGES[[0, 2]] % 2)


def test_select_without_masks() -> None:
    assert Tiles(("a", "b", "c"), IMAGES, None).select(np.array([1])).masks is None


@pytest.mark.parametrize(
    ("ids", "images", "masks"),
    [
        (("b", "a", "c"), IMAGES, None),
        (("a", "a", "c"), IMAGES, None),
        (("a", "b"), IMAGES, None),
        (("a", "b", "c"), IMAGES.astype(np.float32), None),
        (("a", "b", "c"), IMAGES, IMAGES[:, :, :1] % 2),
    ],
)
def test_what_cannot_be_is_asserted(ids: tuple[str, ...], images: np.ndarray, masks: np.ndarray | None) -> None:
    with pytest.raises(AssertionError):
        Tiles(ids, images, masks)
