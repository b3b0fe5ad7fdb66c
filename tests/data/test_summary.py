"""The summary of a data set that is known beforehand, from every kind of source."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from saltray.data.pixel_range import PixelRange
from saltray.data.summary import DatasetSummary, summarise
from saltray.errors import DataError

from .mini import Mini, put, statistics


def test_summary(any_source_uri: str, mini: Mini) -> None:
    assert summarise(any_source_uri) == DatasetSummary(
        **asdict(statistics(mini)),
        test_tiles=5,
        pixel_range=PixelRange(bits=8, maximum=255),
        masks_8bit=5,
        masks_16bit=7,
        black_test=1,
        duplicate_images=1,  # the black ones, two of them for training
        depth_range=(60, 71),
        notes=(),
    )


def test_tables_and_test_images_are_optional(folder: Path) -> None:
    for path in (folder / "train.csv", folder / "depths.csv", *(folder / "test/images").iterdir()):
        path.unlink()
    summary = summarise(str(folder))
    assert (summary.test_tiles, summary.black_test, summary.depth_range) == (0, 0, None)
    assert summary.train_tiles == 12


def test_an_image_of_both_parts_is_a_duplicate(folder: Path, mini: Mini) -> None:
    put(folder / "test/images/ffffff0000.png", mini.images[1])
    assert summarise(str(folder)).duplicate_images == 2


def test_test_images_are_checked_too(folder: Path) -> None:
    put(folder / "test/images/ffffff0000.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(DataError, match="1 problem in"):
        summarise(str(folder))


def test_what_is_unusual_is_noted(folder: Path, mini: Mini) -> None:
    for tile in mini.ids:
        put(folder / f"train/images/{tile}.png", np.full((9, 13), 1000, np.uint16))
    shutil.rmtree(folder / "test")
    summary = summarise(str(folder))
    assert summary.pixel_range == PixelRange(bits=16, maximum=1000)
    assert summary.notes == ("images: 10-bit range in 16-bit files, scaled by the data set's maximum 1000",)
