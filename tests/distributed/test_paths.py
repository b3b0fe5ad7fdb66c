"""Paths on a cluster; several real hosts are in tests/cluster."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saltray.distributed import paths
from saltray.distributed.paths import check_kept, check_seen
from saltray.errors import ConfigError
from saltray.storage.base import Store
from saltray.storage.uri import open_store

LOST = ["x.csv", "./x.csv", "../x.csv", "a/b.csv", "~nobody-of-this-name/x", Path("x.csv")]
KEPT = ["s3://bucket/x", "/shared/x.csv", "file:///shared/x.csv", "~/x.csv"]


@pytest.mark.parametrize("uri", LOST)
def test_what_is_lost_with_a_job_is_refused_on_a_cluster(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_kept("--out", str(uri))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=f"--out {uri} is in the working directory of this one job .*; use s3://"):
        check_kept("--out", str(uri))


@pytest.mark.parametrize("uri", KEPT)
def test_what_is_kept_after_a_job(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_kept("--out", uri)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A folder with one object."""
    store = open_store(f"{tmp_path}/store")
    store.put("a", b"1")
    return store


def test_a_node_that_does_not_see_a_folder_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(nodes: list[Any], check: Callable[..., str | None], *args: object) -> dict[str, str]:
        asked.append(nodes)
        fault = check(*args)
        return {} if fault is None else {"10.0.0.2": fault}

    nodes: list[Any] = [{}, {}]
    monkeypatch.setattr(paths, "live_nodes", lambda: nodes)
    monkeypatch.setattr(paths, "ask_nodes", ask)
    check_seen(store.uri, partial(store.get, "a"))
    with pytest.raises(
        ConfigError, match=rf"not every node sees {store.uri} \(10\.0\.0\.2: .*/b: there is no.*\); use s3"
    ):
        check_seen(store.uri, partial(store.get, "b"))
    assert asked == [nodes, nodes]
    check_seen("s3://bucket/e", pytest.fail)
    del nodes[1]
    check_seen(store.uri, pytest.fail)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_real_node_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = paths.live_nodes()
    monkeypatch.setattr(paths, "live_nodes", lambda: nodes * 2)
    check_seen(store.uri, partial(store.get, "a"))
    with pytest.raises(ConfigError, match=rf"not every node sees {store.uri} \([\d.]+: .*/b: there is no"):
        check_seen(store.uri, partial(store.get, "b"))
