"""What is looked for before anything is trained on a cluster; the rest is tested on one, in tests/cluster."""

from pathlib import Path

import pytest
from command import Saltray, check_refusal

from saltray.distributed.room import check_folder
from saltray.errors import ConfigError


@pytest.mark.parametrize("uri", ["saltray-store", "./store", "../store"])
def test_a_folder_of_one_job_is_no_store_on_a_cluster(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_folder(uri)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=f"store {uri} .*; use s3://"):
        check_folder(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/store", "/shared/store", "file:///shared/store"])
def test_a_store_for_all_nodes(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_folder(uri)


@pytest.mark.parametrize("verb", ["train", "tune", "tune --range-test"])
def test_every_verb_that_trains_looks(
    saltray: Saltray, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_refusal(saltray(*verb.split(), "--data", tiles_folder), "store saltray-store")
    assert list(tmp_path.iterdir()) == []
