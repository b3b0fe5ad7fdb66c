"""Masks by the names of their images, bit for bit, or the first that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.labels import read_labels, unpack_label
from saltray.data.raw import list_images
from saltray.data.source import Source
from saltray.errors import DataError

from .mini import HEIGHT, WIDTH, Mini


def test_masks_come_back_in_the_order_of_the_images(any_source_uri: str, mini: Mini) -> None:
    source = Source(any_source_uri)
    names = list_images(source, "train")[::-1]
    labels = read_labels(source, names, (HEIGHT, WIDTH))
    assert labels.shape == (len(mini.ids), -(-HEIGHT * WIDTH // 8))
    for row, mask in zip(labels, mini.masks[::-1], strict=True):
        np.testing.assert_array_equal(unpack_label(row, (HEIGHT, WIDTH)), mask)


def missing(mask: Path) -> str:
    mask.unlink()
    return f"images/{mask.name} of .*: it has no mask; add one of the same name"


def damaged(mask: Path) -> str:
    mask.write_bytes(b"junk")
    return f"masks/{mask.name} of .*"


def larger(mask: Path) -> str:
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH), np.uint8)).save(mask)
    return f"masks/{mask.name} of .*: {HEIGHT + 1}x{WIDTH} pixels, but its image has {HEIGHT}x{WIDTH}; crop or pad it"


@pytest.mark.parametrize("spoil", [missing, damaged, larger])
def test_a_mask_that_cannot_be_used_is_named(folder: Path, spoil: object) -> None:
    assert callable(spoil)
    told = spoil(sorted(folder.rglob("masks/*.png"))[2])
    source = Source(str(folder))
    with pytest.raises(DataError, match=told):
        read_labels(source, list_images(source, "train"), (HEIGHT, WIDTH))
