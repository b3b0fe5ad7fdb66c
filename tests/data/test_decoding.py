"""A slice of labelled tiles is decoded, and its pixels are used if all of it can be."""

from functools import partial
from pathlib import Path

import numpy as np

from saltray.data.decoding import Decoded, Slice, decode_all, decode_slice
from saltray.data.images import decode_image
from saltray.data.pixel_range import PixelRange
from saltray.data.raw_layout import find_images, find_layout
from saltray.data.source import Source
from saltray.data.tiles import TileShard, mask_digests, pack_masks

from .mini import HEIGHT, WIDTH, Mini, deepen, put

EIGHT = PixelRange(bits=8, maximum=255)


def decode(folder: Path, scale: PixelRange | None, *, tiles: int = 12) -> Decoded[tuple[int, TileShard]]:
    """Slice 3, of the first tiles."""
    source = Source(str(folder))
    layout = find_layout(source, [])
    ids = tuple(sorted(layout.images.keys() | layout.masks.keys()))[:tiles]
    chosen = [{tile: entries[tile] for tile in ids if tile in entries} for entries in (layout.images, layout.masks)]
    work = partial(decode_slice, source, lambda number, shard: (number, shard))
    return work(Slice(3, ids, *chosen, scale))


def test_numbers_and_pixels_of_a_slice(folder: Path, mini: Mini) -> None:
    found = decode(folder, EIGHT, tiles=5)
    assert found.images.tolist() == [[HEIGHT, WIDTH, 8, image.max()] for image in mini.images[:5]]
    bits = [16 if mask.any() else 8 for mask in mini.masks]
    assert found.masks.tolist() == [[HEIGHT, WIDTH, bits[n], mini.masks[n].sum()] for n in range(5)]
    np.testing.assert_array_equal(found.mask_digests, mask_digests(pack_masks(mini.masks[:5])))
    assert found.used is not None
    tally, (number, shard) = found.used
    assert (tally.black, number, shard.ids) == (1, 3, tuple(mini.ids[:5]))
    np.testing.assert_array_equal(shard.images, mini.images[:5])
    np.testing.assert_array_equal(shard.masks(), mini.masks[:5])


def test_pixels_of_a_slice_with_a_fault_are_not_used(folder: Path, mini: Mini) -> None:
    assert decode(folder, None).used is None
    (folder / f"train/masks/{mini.ids[6]}.png").unlink()
    assert decode(folder, EIGHT, tiles=6).used is not None
    lacking = decode(folder, EIGHT)
    assert (lacking.used, lacking.masks[6].tolist(), lacking.problems) == (None, [0] * 4, ())
    (folder / f"train/images/{mini.ids[1]}.png").write_bytes(b"broken")
    broken = decode(folder, EIGHT, tiles=6)
    assert (broken.used, broken.images[1].tolist()) == (None, [0] * 4)
    assert [problem.where for problem in broken.problems] == [f"train/images/{mini.ids[1]}.png"]
    put(folder / f"train/images/{mini.ids[1]}.png", mini.images[1, :-1])
    assert decode(folder, EIGHT, tiles=6).used is None


def test_pixels_of_16_bits_are_scaled(folder: Path, mini: Mini) -> None:
    deepen(folder, mini, 4095)
    assert decode(folder, EIGHT).used is None
    found = decode(folder, PixelRange(bits=16, maximum=4095))
    assert found.images[:, 2:].max(axis=0).tolist() == [16, 4095]
    assert found.used is not None
    np.testing.assert_array_equal(found.used[1][1].images, mini.images)


def test_decode_all_keeps_the_order_of_entries(folder: Path, mini: Mini) -> None:
    source = Source(str(folder))
    entries = dict(reversed(find_images(source, "train").items()))
    assert list(decode_all(source, entries, decode_image, [])) == mini.ids[::-1]
