"""The labelled tiles of a raw data set, slice by slice; what is wrong with some is tested in test_inspection.py."""

from pathlib import Path

import pytest

from saltray.data.inspection import inspect, keep
from saltray.data.source import Source
from saltray.data.tiles import join_shards

from .mini import Mini


def test_progress_is_told_slice_by_slice_and_slices_change_nothing(
    folder: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    whole = inspect(Source(str(folder)), keep, test=False, observer=events.append)
    assert events == []  # of one slice there is nothing to tell
    monkeypatch.setattr("saltray.data.labelled_part.shard_tiles", lambda pixels: 5)
    found = inspect(Source(str(folder)), keep, test=False, observer=events.append)
    assert [str(event) for event in events] == ["tiles: 5 of 12", "tiles: 10 of 12"]
    assert [len(part) for part in found.used] == [5, 5, 2]
    assert (join_shards(found.used).images == mini.images).all()
    assert found.index.ids == whole.index.ids
    assert found.statistics == whole.statistics
