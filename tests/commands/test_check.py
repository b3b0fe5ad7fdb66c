"""`saltray.check`: a summary of what can be used, and every fault of what cannot."""

import shutil
from pathlib import Path

import pytest

import saltray
from saltray.data.summary import DatasetSummary
from saltray.errors import DataError


def test_a_data_set_is_counted(tiles_folder: Path) -> None:
    summary = saltray.check(str(tiles_folder))
    assert isinstance(summary, DatasetSummary)
    assert (summary.train_tiles, summary.test_tiles, summary.height, summary.width) == (24, 6, 101, 101)
    assert summary.masks_8bit + summary.masks_16bit == 24


def test_every_fault_is_listed_by_file(tiles_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiles_folder, tmp_path / "tiles")
    first, second, *_ = sorted((broken / "train/images").iterdir())
    for path in (first, second):
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="2 problems in") as caught:
        saltray.check(str(broken))
    for path, problem in zip((first, second), caught.value.problems, strict=True):
        assert problem.startswith(f"train/images/{path.name}: ")


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        saltray.check(str(tmp_path / "nowhere"))
