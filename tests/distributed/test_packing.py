"""Tiles are decoded by Ray tasks, where all nodes reach the files and the store."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from saltray.data.packing import open_packed, pack
from saltray.data.raw import read_tiles
from saltray.data.workers import map_on_cores
from saltray.distributed.packing import map_on_nodes, mapper_for
from saltray.errors import DataError
from saltray.storage.uri import open_store


def test_nodes_decode_where_all_of_them_reach_the_files_and_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, local = open_store("s3://bucket/store"), open_store(str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert mapper_for("s3://bucket/tiles", remote) == map_on_cores
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert mapper_for("s3://bucket/tiles", remote) == map_on_nodes
    assert mapper_for("s3://bucket/tiles", local) == map_on_cores
    assert mapper_for("tiles", remote) == map_on_cores


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_data_set_that_tasks_have_packed(tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.data.tiles.SHARD_TILES", 5)
    store, other = open_store(str(tmp_path / "store")), open_store(str(tmp_path / "other"))
    packed = open_packed(str(tiles_folder), store, mapper=map_on_nodes)
    assert packed.manifest == pack(str(tiles_folder), other)
    assert [shard.tiles for shard in packed.manifest.shards] == [5, 5, 5, 5, 4]
    np.testing.assert_array_equal(packed.tiles().masks, read_tiles(str(tiles_folder)).masks)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_results_come_in_order_and_an_error_is_raised_as_it_is() -> None:
    assert list(map_on_nodes(partial(pow, 2), range(40))) == [2**n for n in range(40)]

    def fail(number: int) -> int:
        raise DataError("one fault", (f"of {number}",))

    with pytest.raises(DataError, match="^one fault$") as caught:
        list(map_on_nodes(fail, [7]))
    assert caught.value.problems == ("of 7",)
