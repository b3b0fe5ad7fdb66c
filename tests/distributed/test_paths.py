"""Paths on a cluster; several real hosts are in tests/cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saltray.distributed import paths
from saltray.distributed.paths import check_inputs_seen, check_kept
from saltray.errors import ConfigError
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
def inputs(tmp_path: Path) -> tuple[str, str, str]:
    """An ensemble, a data set and one of its tiles."""
    open_store(f"{tmp_path}/ensemble").put("manifest.json", b"{}")
    open_store(f"{tmp_path}/tiles").put("images/a.png", b"1")
    return f"{tmp_path}/ensemble", f"{tmp_path}/tiles", "images/a.png"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The questions to the nodes of a cluster of two, which are answered here."""
    asked: list[tuple[Any, ...]] = []

    def ask(nodes: object, check: Callable[..., str | None], *args: object) -> dict[str, str]:
        asked.append(args)
        fault = check(*args)
        return {} if fault is None else {"10.0.0.2": fault}

    monkeypatch.setattr(paths, "live_nodes", lambda: [{}, {}])
    monkeypatch.setattr(paths, "ask_nodes", ask)
    return asked


def test_nodes_that_see_the_inputs(inputs: tuple[str, str, str], asked: list[tuple[Any, ...]]) -> None:
    check_inputs_seen(*inputs)
    ensemble, data, name = inputs
    assert asked == [(ensemble, "manifest.json"), (data, name)]


@pytest.mark.parametrize("which", ["ensemble", "tiles"])
def test_a_node_that_does_not_see_an_input_is_named(
    which: str, inputs: tuple[str, str, str], asked: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / which).rename(tmp_path / "elsewhere")
    match = rf"not every node sees {tmp_path}/{which} \(10\.0\.0\.2: .*no such object.*\); use s3://"
    with pytest.raises(ConfigError, match=match):
        check_inputs_seen(*inputs)


def test_inputs_in_s3_and_a_single_node_need_no_question(
    inputs: tuple[str, str, str], asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_inputs_seen("s3://bucket/e", "s3://bucket/d", "a.png")
    monkeypatch.setattr(paths, "live_nodes", lambda: [{}])
    check_inputs_seen(*inputs)
    assert asked == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_real_node_answers(inputs: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes = paths.live_nodes()
    monkeypatch.setattr(paths, "live_nodes", lambda: nodes * 2)
    check_inputs_seen(*inputs)
    (tmp_path / "tiles/images/a.png").unlink()
    with pytest.raises(ConfigError, match=rf"not every node sees {tmp_path}/tiles \([\d.]+: .*a\.png"):
        check_inputs_seen(*inputs)
