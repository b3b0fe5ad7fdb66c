"""Every image of a data set is read, with or without a mask."""

from pathlib import Path

import numpy as np

from saltray.data.all_images import load_all_images
from saltray.data.packing import pack
from saltray.data.tiles import Tiles
from saltray.storage.base import Store

from .mini import Mini, put


def test_all_images_of_raw_files_and_the_labelled_ones_of_a_packed_set(folder: Path, mini: Mini, store: Store) -> None:
    raw = load_all_images(str(folder), store)
    assert (len(raw.tiles), raw.notes) == (17, ())
    assert not list(store.list())
    name = pack(str(folder), store).name
    packed = load_all_images(f"datasets/{name}", store)
    assert type(packed.tiles) is Tiles
    assert packed.tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(packed.tiles.images, mini.images)
    assert packed.notes == (
        f"packed, with labelled tiles alone; to use its test images, too, name the raw one ({folder})",
    )
    put(folder / f"test/images/{mini.test_ids[0]}.png", 255 - mini.test_images[0])
    assert len({raw.digest, packed.digest, load_all_images(str(folder), store).digest}) == 3
