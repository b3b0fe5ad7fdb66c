"""Searches by real Ray Tune trials, each a real Ray Train job; and what needs none, from the store alone."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow_server import runs_of
from ray_session import Recorded, record

import saltray
from saltray.commands.prepare import prepare
from saltray.config import ClusterConfig, Config, SearchConfig
from saltray.errors import ConfigError, RunLockedError, SearchFailedError
from saltray.progress import (
    CapacityFound,
    DataNote,
    Event,
    LockTakenOver,
    MLflowFailed,
    SearchPlanned,
    TrialEnded,
    TrialEpoch,
    TrialsEnded,
    TrialsRunning,
    TrialsStartedBefore,
    TrialStarted,
)
from saltray.runs import tracking
from saltray.runs.layout import checkpoint_folder
from saltray.search.spec import SearchSpec
from saltray.search.trials import create_search, create_trial, finish_trial
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.uri import open_store

from .conftest import FIRST_CHECKPOINT, check_resumed, killed_once, note_something

Small = Callable[..., Config]
Searched = Recorded[saltray.SearchResult]
SEARCH = SearchConfig(space={"optim.lr": saltray.loguniform(1e-4, 1e-1)}, trials=3)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def rates(*values: float) -> dict[str, Any]:
    return {"optim.lr": saltray.choice(values)}


def search_store(config: Config, name: str = "s1") -> Store:
    return open_store(config.store).sub(f"searches/{name}")


@pytest.fixture(scope="module")
def config(small: Small, tiles_folder: Path, s3_uri: Callable[[], str]) -> Config:
    """On S3."""
    return small(tiles_folder, s3_uri())


@pytest.fixture(scope="module")
def searched(ray_here: None, config: Config) -> Searched:
    """A search of three trials."""
    return record(saltray.tune, config, SEARCH)


def test_a_search_prints_nothing_and_tells_its_observer_all(searched: Searched) -> None:
    assert searched.printed == ""
    planned, capacity, running, *middle, end = searched.events
    assert isinstance(planned, SearchPlanned)
    assert (planned.search, planned.folds, planned.held_out, planned.steps) == ("s1", (0,), (12,), 3)
    assert (planned.trials, planned.epochs, planned.rungs) == (3, 2, (1,))
    assert capacity == CapacityFound(
        where="Ray on this machine", job="trial", needs="1 rank of 1 CPU", jobs=3, concurrency=2, ready=2
    )
    assert running == TrialsRunning(known=(), limit=3, fields=("optim.lr",))
    assert end == TrialsEnded()
    for trial in searched.result.trials:
        told = [event for event in middle if event.trial.name == trial.name]  # type: ignore[attr-defined]
        assert [type(event) for event in told] == [TrialStarted, *[TrialEpoch] * len(trial.epochs), TrialEnded]
        assert [event.score for event in told if isinstance(event, TrialEpoch)] == [e.score for e in trial.epochs]
        assert told[-1] == TrialEnded(trial.state(2))


def test_a_search_leaves_its_table_its_best_trial_and_figures(searched: Searched, config: Config) -> None:
    found, store = searched.result, search_store(config)
    frame = found.table
    assert list(frame["trial"]) == ["trial-000", "trial-001", "trial-002"]
    assert set(frame["status"]) <= {"finished", "stopped"}
    assert frame["epochs"].between(1, 2).all()
    assert frame["optim.lr"].between(1e-4, 1e-1).all()
    best = frame.set_index("trial").loc[found.best.name]
    assert best["score"] == frame["score"].max() == found.score
    assert found.best_config == replace(config, optim=replace(config.optim, lr=best["optim.lr"]))
    pd.testing.assert_frame_equal(store.get_table("trials.parquet").to_pandas(), frame, check_dtype=False)
    assert store.get_json("best.json")["values"] == {"optim.lr": best["optim.lr"]}
    manifest = store.get_json("manifest.json")
    assert manifest["space"] == {"optim.lr": "log:0.0001:0.1"}
    assert manifest["config"]["train"]["epochs"] == 2
    assert found.uri == store.uri
    assert store.get("search.png").startswith(b"\x89PNG")
    assert store.get("tensorboard/trial-000/events.out.tfevents.trial-000")
    # The checkpoints of trials that have ended are deleted.
    assert not [entry.key for entry in store.list() if "checkpoints/" in entry.key]


def test_a_finished_search_is_kept_and_can_be_extended(searched: Searched, config: Config) -> None:
    store = search_store(config)
    names = [trial.name for trial in searched.result.trials]
    before = {name: store.get(f"{name}/result.json") for name in names}
    again = record(saltray.tune, config, SEARCH)
    assert again.kinds == ["SearchPlanned", "TrialsStartedBefore"]
    assert again.result.trials == searched.result.trials

    further = record(saltray.tune, config, replace(SEARCH, trials=4))
    assert further.of(TrialsStartedBefore) == [TrialsStartedBefore(3, kept=3)]
    assert {event.trial.name for event in further.of(TrialStarted)} == {"trial-003"}
    assert further.printed == ""
    assert [trial.name for trial in further.result.trials] == [*names, "trial-003"]
    assert {name: store.get(f"{name}/result.json") for name in names} == before
    with pytest.raises(ConfigError, match=r"search s1 was started with other search.space"):
        saltray.tune(config, SearchConfig(space=rates(1e-3)))


def test_a_failed_trial_is_retried_by_the_next_call(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    config = small(tiles_folder, tmp_path, epochs=1)
    search = SearchConfig(space=rates(1e-3, 3e-3), sampler="tpe", prune=False, trials=2)
    store = search_store(config)
    # A folder where the first trial must write its history.
    obstacle = tmp_path / "searches/s1/trial-000/history.jsonl/x"
    obstacle.mkdir(parents=True)
    found = record(saltray.tune, config, search)
    assert [trial.status for trial in found.result.trials] == ["failed", "finished"]
    assert "history.jsonl" in (found.result.trials[0].reason or "")
    assert [event.trial.name for event in found.of(TrialEnded) if event.failure] == ["trial-000"]
    assert found.printed == ""
    kept = store.get("trial-001/result.json")

    obstacle.rmdir()
    obstacle.parent.rmdir()
    mended = record(saltray.tune, config, search)
    assert mended.of(TrialsStartedBefore) == [TrialsStartedBefore(2, kept=1)]
    assert {event.trial.name for event in mended.of(TrialStarted)} == {"trial-000"}
    assert [trial.status for trial in mended.result.trials] == ["finished", "finished"]
    assert [trial.values for trial in mended.result.trials] == [trial.values for trial in found.result.trials]
    assert store.get("trial-001/result.json") == kept


def test_killed_trials_resume_from_their_checkpoints(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first trial the rank is killed, of the second the trial's own process, which takes its rank with it."""
    from saltray.distributed.checkpoints import load

    config = small(tiles_folder, tmp_path / "store", cluster=ClusterConfig(max_failures=1))
    store = search_store(config)
    rank_killed, told, process_killed = (tmp_path / name for name in ("rank", "told", "process"))
    run_with_kills(monkeypatch, rank_killed, told, process_killed)
    states: list[int] = []

    def observer(event: Event) -> None:
        if isinstance(event, TrialEpoch) and event.trial.name == "trial-001" and not told.exists():
            states.append(len(load(store.sub("trial-001"), checkpoint_folder(1)).states))
            told.write_bytes(store.get(f"trial-001/{FIRST_CHECKPOINT}"))

    search = SearchConfig(space=rates(3e-3, 1e-3), folds=(0, 1), prune=False, trials=2)
    found = record(saltray.tune, config, search, observer=observer)
    assert process_killed.exists()
    assert states == [2]  # one of each fold
    check_resumed(store.sub("trial-000"), rank_killed.read_bytes(), epochs=2)
    check_resumed(store.sub("trial-001"), told.read_bytes(), epochs=2)
    started = [(event.trial.name, event.trial.epochs) for event in found.of(TrialStarted)]
    assert sorted(started) == [("trial-000", 0), ("trial-001", 0), ("trial-001", 1)]  # that is, from epoch 1
    assert found.printed == ""
    assert [(trial.status, len(trial.epochs)) for trial in found.result.trials] == [("finished", 2)] * 2
    for trial in found.result.trials:
        kept = store.get_json(f"{trial.name}/result.json")["epochs"]
        assert [epoch["epoch"] for epoch in kept] == [1, 2]


def run_with_kills(patch: pytest.MonkeyPatch, rank_killed: Path, told: Path, process_killed: Path) -> None:
    """Have the rank of trial-000 killed, and the process of trial-001 once its first epoch is told."""
    from saltray.distributed import tuner, worker

    train_trial = worker.train_trial
    loop_of_first = killed_once(train_trial, "trial-000", rank_killed)

    def loop_of_second(loop_config: Any) -> Any:
        import ray.train

        report = ray.train.report

        def waiting_report(metrics: Any, **settings: Any) -> None:
            if metrics["epoch"] == 2 and not process_killed.exists():
                time.sleep(120)  # until this process is ended with the trial's
            report(metrics, **settings)

        ray.train.report = waiting_report
        return train_trial(loop_config)

    def run_trial(parameters: Any, template: Any) -> None:
        from saltray.distributed import trial

        def kill_once_told() -> None:
            end = time.monotonic() + 120
            while not told.exists() and time.monotonic() < end:
                time.sleep(0.05)
            process_killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        trial.train_trial = loop_of_first if parameters["index"] == 0 else loop_of_second  # type: ignore[assignment]
        if parameters["index"] == 1 and not process_killed.exists():
            threading.Thread(target=kill_once_told, daemon=True).start()
        trial.run_trial(parameters, template)

    patch.setattr(tuner, "run_trial", run_trial)


def test_a_search_is_told_to_mlflow_once(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own files: its server is in tests that need no Ray."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of this test")
    config = small(tiles_folder, tmp_path / "store", epochs=1)
    search = SearchConfig(space=rates(1e-3, 3e-3), prune=False, trials=2)
    for _ in range(2):
        found = record(saltray.tune, config, search)
        assert (found.of(MLflowFailed), found.printed) == ([], "")
        client = mlflow.MlflowClient()
        runs = runs_of(client, "of this test")
        parent, *trials = (runs[name] for name in ("search s1", "trial-000", "trial-001"))
        assert len(runs) == 3
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert parent.data.metrics == {"best_score": pytest.approx(found.result.score)}
        for run, trial in zip(trials, found.result.trials, strict=True):
            assert run.data.params == {"optim.lr": f"{trial.values['optim.lr']:g}"}
            (epoch,) = trial.epochs
            known = {name: getattr(epoch, name) for name in ("score", "loss", "lr")}
            assert {name: run.data.metrics[name] for name in known} == pytest.approx(known)
            assert len(client.get_metric_history(run.info.run_id, "score")) == 1


@pytest.fixture
def ended(small: Small, tiles_folder: Path, tmp_path: Path) -> tuple[Config, SearchConfig]:
    """A search whose two trials have diverged already, so that nothing is left to run."""
    config, search = small(tiles_folder, tmp_path), SearchConfig(space=rates(1e30, 1e31), trials=2)
    spec = SearchSpec.create(config, search)
    prepared = prepare(config, open_store(config.store))
    home = search_store(config)
    create_search(home, spec, prepared.dataset, prepared.initial_digest)
    for index, rate in enumerate((1e30, 1e31)):
        trial = create_trial(home, index, {"optim.lr": rate})
        finish_trial(home, replace(trial, status="diverged", reason=f"the loss is NaN at {rate:g}"))
    return config, search


def test_a_search_in_which_all_trials_failed_says_why(ended: tuple[Config, SearchConfig]) -> None:
    with pytest.raises(
        SearchFailedError, match="none of 2 trials of search s1 has .* trial-000: the loss is .*; search other values"
    ) as caught:
        saltray.tune(*ended)
    assert caught.value.exit_code == 1
    assert caught.value.failures == {"trial-000": "the loss is NaN at 1e+30", "trial-001": "the loss is NaN at 1e+31"}
    assert search_store(ended[0]).exists("trials.parquet")
    assert not search_store(ended[0]).exists("best.json")


def test_mlflow_ends_no_search(ended: tuple[Config, SearchConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    events: list[Event] = []
    with pytest.raises(SearchFailedError, match="none of 2 trials"):
        saltray.tune(*ended, observer=events.append)
    assert [event.what for event in events if isinstance(event, MLflowFailed)] == ["search"]
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="MLflow is not installed"):
        saltray.tune(*ended)


def test_a_second_process_is_refused(ended: tuple[Config, SearchConfig]) -> None:
    home = search_store(ended[0])
    with RunLock(home, "search s1", beat=0.05), pytest.raises(RunLockedError, match="search s1 is being run by"):
        saltray.tune(*ended)
    assert not home.exists("trials.parquet")


def test_the_lock_of_a_process_that_died_is_taken_over(
    ended: tuple[Config, SearchConfig], stale_lock: Callable[[Store], str]
) -> None:
    owner = stale_lock(search_store(ended[0]))
    events: list[Event] = []
    with pytest.raises(SearchFailedError):
        saltray.tune(*ended, observer=events.append)
    assert events[0] == LockTakenOver(owner)


def test_what_is_unusual_of_the_data_set_is_told(ended: tuple[Config, SearchConfig]) -> None:
    note_something(open_store(ended[0].store))
    events: list[Event] = []
    with pytest.raises(SearchFailedError):
        saltray.tune(*ended, observer=events.append)
    assert events[0] == DataNote("something")


@pytest.mark.parametrize(
    ("search", "named"),
    [
        (SearchConfig(folds=(0, 2)), "search.folds names fold 2; the split has folds 0 to 1"),
        (SearchConfig(space=rates(-1.0)), "optim.lr is -1"),
    ],
)
def test_an_impossible_search_leaves_nothing(
    search: SearchConfig, named: str, small: Small, tiles_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        saltray.tune(small(tiles_folder, tmp_path / "store"), search)
    assert not (tmp_path / "store").exists()


def test_without_optuna_nothing_is_started(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"saltray\[tpe\]"):
        saltray.tune(small(tiles_folder, tmp_path / "store"), SearchConfig(sampler="tpe"))
    assert not (tmp_path / "store").exists()
