"""A search in a real MLflow: complete, and nothing twice, whatever was interrupted."""

import socket
from dataclasses import replace
from typing import Any

import mlflow
import pytest
from mlflow_server import runs_of
from samples import dataset, metrics

from saltray.config import choice
from saltray.progress import MLflowFailed, TrialEnded, TrialEpoch, TrialsEnded, TrialStarted
from saltray.runs import tracking
from saltray.runs.history import EpochRecord, History
from saltray.runs.tracking import tracked
from saltray.search.mlflow_search import MLflowSearch
from saltray.search.results import write_best
from saltray.search.spec import SearchSpec
from saltray.search.trials import SearchManifest, Trial, create_search, create_trial, finish_trial, load_trials
from saltray.storage.base import Store

from .conftest import SpecMaker

LENGTH = 9


@pytest.fixture
def spec(make_spec: SpecMaker) -> SearchSpec:
    return make_spec(space={"optim.lr": choice([0.1, 0.01, 0.001]), "model.scse": choice([True, False])})


@pytest.fixture
def manifest(home: Store, spec: SearchSpec) -> SearchManifest:
    return create_search(home, spec, dataset(), None)


def trained(trial: Trial, home: Store, epochs: int) -> Trial:
    """The trial after so many epochs, as its worker and Ray Tune have them."""
    known = [metrics(number, 0.125 * number) for number in range(1, epochs + 1)]
    with History(home.sub(trial.name), [EpochRecord(**vars(one), at=1000.0 + one.epoch) for one in known]):
        pass
    return replace(trial, epochs=tuple(known))


def ended(trial: Trial, home: Store, **how: Any) -> TrialEnded:
    done = replace(trial, **how)
    finish_trial(home, done)
    return TrialEnded(done.state(LENGTH))


def test_a_search_is_in_mlflow_as_a_whole_and_once(
    mlflow_client: mlflow.MlflowClient,
    home: Store,
    spec: SearchSpec,
    manifest: SearchManifest,
    request: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Any] = []
    values: list[dict[str, Any]] = [{"optim.lr": rate, "model.scse": True} for rate in (0.1, 0.01, 0.001)]
    with (  # interrupted while its third trial trains
        pytest.raises(KeyboardInterrupt),
        tracked(MLflowSearch(home, manifest, []), events.append) as tell,
    ):
        first, second, third = (create_trial(home, index, each) for index, each in enumerate(values))
        for trial in (first, second, third):
            tell(TrialStarted(trial.state(LENGTH)))
        second = trained(second, home, 2)
        tell(TrialEpoch(second.state(LENGTH), 0.25))
        tell(ended(second, home, status="stopped"))
        tell(ended(first, home, status="failed", reason="its process died"))
        tell(TrialEpoch(trained(third, home, 1).state(LENGTH), 0.125))
        raise KeyboardInterrupt
    runs = runs_of(mlflow_client, request.node.name)
    assert {name: run.info.status for name, run in runs.items()} == {
        "search s1": "KILLED",
        "trial-000": "FAILED",
        "trial-001": "KILLED",
        "trial-002": "SCHEDULED",
    }
    tagged: list[str] = []
    set_tag = mlflow.MlflowClient.set_tag

    def record(client: mlflow.MlflowClient, run: str, *tag: str) -> None:
        tagged.append(run)
        set_tag(client, run, *tag)

    for resumed in (True, False):  # the second finds nothing to do
        tagged.clear()
        known = load_trials(home, LENGTH)
        with monkeypatch.context() as patch, tracked(MLflowSearch(home, manifest, known), events.append) as tell:
            patch.setattr(mlflow.MlflowClient, "set_tag", record)
            if resumed:
                for trial, status in ((first, "diverged"), (third, "finished")):
                    tell(TrialStarted(trial.state(LENGTH)))
                    tell(ended(trained(trial, home, 3), home, status=status, reason="NaN" * (status == "diverged")))
                tell(TrialsEnded())
                best = max(load_trials(home, LENGTH), key=lambda trial: trial.rank)
                write_best(home, spec, best, 3)
        check(mlflow_client, home, request.node.name)
        done = runs_of(mlflow_client, request.node.name)
        assert done["trial-001"].info.run_id not in tagged
        assert (done["trial-002"].info.run_id in tagged) == resumed
    assert not [event for event in events if isinstance(event, MLflowFailed)]


def check(client: mlflow.MlflowClient, home: Store, experiment: str) -> None:
    runs = runs_of(client, experiment)
    assert {name: (run.info.status, run.data.tags.get("saltray.status")) for name, run in runs.items()} == {
        "search s1": ("FINISHED", None),
        "trial-000": ("FAILED", "diverged"),
        "trial-001": ("KILLED", "stopped"),
        "trial-002": ("FINISHED", "finished"),
    }
    parent = runs.pop("search s1")
    assert (parent.data.params["search.space.optim.lr"], parent.data.params["train.epochs"]) == ("0.1,0.01,0.001", "9")
    assert "optim.lr" not in parent.data.params
    tags = parent.data.tags
    assert (tags["saltray.search"], tags["saltray.best_trial"]) == (home.uri, "trial-002")
    assert (tags["saltray.best.optim.lr"], tags["saltray.best.model.scse"]) == ("0.001", "true")
    assert parent.data.metrics == {"best_score": 0.375}
    assert len(client.get_metric_history(parent.info.run_id, "best_score")) == 1
    for (name, run), rate, epochs in zip(sorted(runs.items()), ("0.1", "0.01", "0.001"), (3, 2, 3), strict=True):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.data.tags["saltray.trial"], run.data.params) == (name, {"optim.lr": rate, "model.scse": "true"})
        for metric in ("score", "loss", "lr"):
            history = client.get_metric_history(run.info.run_id, metric)
            steps = range(1, epochs + 1)
            assert [(each.step, each.timestamp) for each in history] == [
                (step, 1_000_000 + 1000 * step) for step in steps
            ]
    assert runs["trial-000"].data.tags["saltray.reason"] == "NaN"
    assert "best_score" not in runs["trial-000"].data.metrics  # diverged, it has none
    assert [runs[name].data.metrics["best_score"] for name in ("trial-001", "trial-002")] == [0.25, 0.375]


def test_what_trained_while_mlflow_was_away_is_sent_later(
    mlflow_client: mlflow.MlflowClient,
    home: Store,
    manifest: SearchManifest,
    request: Any,
) -> None:
    trials = [create_trial(home, index, {"optim.lr": 0.1, "model.scse": True}) for index in range(2)]
    with pytest.raises(KeyboardInterrupt), tracked(MLflowSearch(home, manifest, trials), lambda event: None) as tell:
        for trial in trials:
            tell(TrialStarted(trial.state(LENGTH)))
        ended(trained(trials[0], home, 1), home, status="failed", reason="no GPU")
        tell(TrialEnded(replace(trials[0], status="failed", reason="no GPU").state(LENGTH)))
        raise KeyboardInterrupt
    ended(trained(trials[0], home, 3), home, status="diverged", reason="NaN")
    ended(trained(trials[1], home, 2), home, status="stopped")
    MLflowSearch(home, manifest, load_trials(home, LENGTH)).send()
    runs = runs_of(mlflow_client, request.node.name)
    for name, status, epochs in (("trial-000", "diverged", 3), ("trial-001", "stopped", 2)):
        assert runs[name].data.tags["saltray.status"] == status
        history = mlflow_client.get_metric_history(runs[name].info.run_id, "loss")
        assert [each.step for each in history] == list(range(1, epochs + 1))


def test_a_search_that_was_begun_anew_is_another(
    mlflow_client: mlflow.MlflowClient, home: Store, spec: SearchSpec, manifest: SearchManifest
) -> None:
    trial = create_trial(home, 0, {"optim.lr": 0.1, "model.scse": True})
    failed = replace(trial, status="failed", reason="no GPU")
    finish_trial(home, failed)
    ids = []
    for each in (manifest, manifest, replace(manifest, identity="f" * 64)):
        MLflowSearch(home, each, [failed]).send()
        ids.append(home.get_json("mlflow.json")["run"])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_does_not_answer_ends_no_search(
    home: Store, manifest: SearchManifest, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    import mlflow.pyfunc  # noqa: F401

    monkeypatch.setattr(tracking, "LAST_S", 1.0)
    events: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        if not silent:
            server.close()
        with tracked(MLflowSearch(home, manifest, []), events.append) as tell:
            trial = create_trial(home, 0, {"optim.lr": 0.1, "model.scse": True})
            tell(TrialStarted(trial.state(LENGTH)))
            tell(ended(trained(trial, home, 1), home, status="finished"))
    assert [type(event) for event in events] == [TrialStarted, TrialEnded, MLflowFailed]
    assert "a part of this search" in str(events[-1])


def test_a_later_attempt_is_at_the_same_server(
    home: Store, manifest: SearchManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may outlive the environment that it was started in."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    search = MLflowSearch(home, manifest, [])
    for _ in range(2):
        with pytest.raises(mlflow.MlflowException, match=str(port)):
            search.send()
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
