"""MLflow never stands in the way of a run."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from samples import metrics

from saltray.config import Config
from saltray.errors import ConfigError
from saltray.progress import FoldFinished, FoldStarted, MLflowFailed
from saltray.runs import tracking
from saltray.runs.history import EpochRecord, History
from saltray.runs.mlflow_run import MLflowRun
from saltray.runs.records import RunManifest
from saltray.runs.tracking import PATIENCE, check_tracking, tracked
from saltray.storage.base import Store
from saltray.storage.uri import open_store

MANIFEST = RunManifest(run="r1", identity="0" * 64, config=Config(data="d"), dataset="0" * 64, provenance={})


@pytest.fixture
def home(tmp_path: Path) -> Store:
    found = open_store(str(tmp_path)).sub("runs/r1")
    with History(found.sub("fold-0"), [EpochRecord(**vars(metrics(1)), at=1000.0)]):
        pass
    return found


def all_events(home: Store) -> list[Any]:
    events: list[Any] = []
    with tracked(MLflowRun(home, MANIFEST), events.append) as tell:
        tell(FoldStarted(0))
        tell(FoldFinished(fold=0, score=0.5, seconds=1.0, queued=0))
    return events


def test_without_a_tracking_uri_there_is_only_the_observer(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    observer: Any = lambda event: None  # noqa: E731
    with tracked(MLflowRun(home, MANIFEST), observer) as tell:
        assert tell is observer
    check_tracking()


def test_a_server_that_is_down_is_told_once_without_its_password(
    home: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:se@cret@127.0.0.1:{port}")
    before = dict(os.environ)
    events = all_events(home)
    assert os.environ == before
    faults = [event for event in events if isinstance(event, MLflowFailed)]
    assert len(faults) == 1
    assert events[:2] == [FoldStarted(0), FoldFinished(fold=0, score=0.5, seconds=1.0, queued=0)]
    printed = capfd.readouterr()
    told = str(faults[0]) + printed.out + printed.err
    assert f"127.0.0.1:{port}" in told or "127.0.0.1" in told
    assert "cret" not in told
    assert "\n" not in str(faults[0])
    assert not [entry.key for entry in home.list() if b"cret" in home.get(entry.key)]
    assert printed.out + printed.err == ""


def test_a_server_that_does_not_answer_is_left(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pyfunc  # noqa: F401

    monkeypatch.setattr(tracking, "LAST_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        *_, last = all_events(home)
    assert last == MLflowFailed("it has not taken all within 0.5 s")


def test_own_settings_of_mlflow_win(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    with tracked(MLflowRun(home, MANIFEST), lambda event: None):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == PATIENCE["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_uri_without_mlflow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    check_tracking()
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"MLflow is not installed; `pip install 'saltray\[mlflow\]'`, or unset it"):
        check_tracking()
