"""Statistics of tiles that are counted by hand."""

import numpy as np
import pytest

from saltray.data.statistics import Statistics, Tally, count_repeated, statistics_of
from saltray.data.tiles import TileIndex, TileShard, pack_masks

from .mini import HEIGHT, WIDTH, Mini


def test_statistics_by_hand(mini: Mini) -> None:
    salt = [int(mask.sum()) for mask in mini.masks]
    positive = sorted(count for count in salt if count)
    pixels = mini.images.ravel().tolist()
    mean = sum(pixels) / len(pixels)
    index = TileIndex.of(mini.ids, mini.masks)
    shards = [TileShard(index.ids[a:b], mini.images[a:b], pack_masks(mini.masks[a:b])) for a, b in ((0, 5), (5, 12))]
    tally = Tally.of(shards[0]) + Tally.of(shards[1])
    assert statistics_of(index, tally, HEIGHT, WIDTH) == Statistics(
        train_tiles=12,
        height=HEIGHT,
        width=WIDTH,
        empty=5,
        full=1,
        vertical=1,
        tiny=1,
        black=2,
        duplicate_masks=1,
        mean_coverage=pytest.approx(sum(salt) / len(pixels)),
        median_coverage=pytest.approx(positive[3] / (HEIGHT * WIDTH)),
        pixel_mean=pytest.approx(mean / 255),
        pixel_std=pytest.approx((sum((p - mean) ** 2 for p in pixels) / len(pixels)) ** 0.5 / 255),
    )


def test_tiles_without_salt_have_no_median() -> None:
    masks = np.zeros((1, 4, 4), np.uint8)
    shard = TileShard(("a",), np.full((1, 4, 4), 51, np.uint8), pack_masks(masks))
    statistics = statistics_of(TileIndex.of("a", masks), Tally.of(shard), 4, 4)
    assert (statistics.empty, statistics.mean_coverage, statistics.median_coverage) == (1, 0, None)
    assert (statistics.pixel_mean, statistics.pixel_std) == (pytest.approx(0.2), pytest.approx(0))


def test_count_repeated() -> None:
    assert count_repeated([b"a", b"b", b"a", b"c", b"c", b"c"]) == 2
    assert count_repeated([]) == 0
