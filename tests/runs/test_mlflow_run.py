"""A run in a real MLflow: complete, and nothing twice, whatever was interrupted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from command import require
from mlflow_server import missing, mlflow_server, prepare
from samples import EVALUATION, metrics

from saltray.config import ClusterConfig, Config
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest
from saltray.progress import FoldFinished, FoldsFinishedBefore, FoldStarted, MLflowFailed, Published
from saltray.records import to_record
from saltray.runs import tracking
from saltray.runs.history import EpochRecord, History
from saltray.runs.mlflow_run import MLflowIds, MLflowRun
from saltray.runs.records import RunManifest
from saltray.runs.tensorboard import SCALARS
from saltray.runs.tracking import tracked
from saltray.storage.base import Store
from saltray.storage.uri import open_store

MANIFEST = RunManifest(
    run="r1", identity="0" * 64, config=Config(data="d", recipe="fast-2"), dataset="0" * 64, provenance={}
)


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    require(missing())
    assert pytestconfig.cache is not None
    program = prepare(Path(pytestconfig.cache.mkdir("mlflow")))
    with mlflow_server(program, tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture
def client(server: str, request: Any, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """With an experiment of this test's own in the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # on a busy machine
    monkeypatch.setattr(tracking, "LAST_S", 300)
    return mlflow.MlflowClient(server)


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """The run's part of a store."""
    return open_store(str(tmp_path / "store")).sub("runs/r1")


def put_epochs(home: Store, fold: int, epochs: int) -> None:
    records = [
        EpochRecord(**vars(metrics(number, 0.125 * number if number != 2 else None)), at=1000.0 + number)
        for number in range(1, epochs + 1)
    ]
    with History(home.sub(f"fold-{fold}"), records):
        pass


def all_runs(client: mlflow.MlflowClient, name: str) -> dict[str, Any]:
    """The runs of an experiment by name, of which each is there once."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = {str(run.info.run_name): run for run in runs}
    assert len(found) == len(runs)
    return found


def test_a_run_is_in_mlflow_as_a_whole_and_once(
    client: mlflow.MlflowClient, home: Store, untrained: str, request: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_store(untrained)
    manifest = EnsembleManifest.from_json(source.get_json("manifest.json"))
    ensemble = open_store(f"{Path(home.uri).parents[1]}/ensembles/r1/v1")
    for entry in source.list():
        ensemble.put(entry.key, source.get(entry.key))
    ensemble.put_record("manifest.json", replace(manifest, evaluation=EVALUATION))
    events: list[Any] = []
    with tracked(home, MANIFEST, events.append) as tell:
        for fold in (0, 1):
            tell(FoldStarted(fold))
        put_epochs(home, 0, 3)
        tell(FoldFinished(fold=0, score=0.5, seconds=1.0, queued=0))
    with pytest.raises(KeyboardInterrupt), tracked(home, MANIFEST, events.append) as tell:  # interrupted, and resumed
        tell(FoldStarted(1))
        put_epochs(home, 1, 2)
        raise KeyboardInterrupt
    for _ in range(2):  # the second changes nothing
        with tracked(home, MANIFEST, events.append) as tell:
            put_epochs(home, 1, 3)
            tell(FoldsFinishedBefore((0, 1)))
            tell(Published(ensemble.uri))
        assert not [event for event in events if isinstance(event, MLflowFailed)]
        runs = all_runs(client, request.node.name)
        assert set(runs) == {"r1", "fold-0", "fold-1"}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for name in ("fold-0", "fold-1"):
            run = runs[name]
            assert run.data.tags["mlflow.parentRunId"] == runs["r1"].info.run_id
            scores = client.get_metric_history(run.info.run_id, "score")
            assert [(each.step, each.value, each.timestamp) for each in scores] == [
                (1, 0.125, 1001000),
                (3, 0.375, 1003000),
            ]
            assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]
            assert set(run.data.metrics) == set(SCALARS)
        params, tags = runs["r1"].data.params, runs["r1"].data.tags
        assert params["train.epochs"] == str(MANIFEST.config.train.epochs)
        assert len(params) > 60
        assert (tags["saltray.recipe"], tags["saltray.ensemble"]) == ("fast-2", ensemble.uri)
        assert runs["r1"].data.metrics["out_of_fold_score"] == EVALUATION.score
        assert runs["r1"].data.metrics["out_of_fold_score_low"] == EVALUATION.interval.low
        (version,) = client.search_model_versions(f"run_id='{runs['r1'].info.run_id}'")
        assert (version.name, version.version, version.tags["saltray.ensemble"]) == ("r1", "1", ensemble.uri)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Retrying" not in printed.err
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    images = np.random.default_rng(0).integers(0, 256, (2, 101, 101), np.uint8)
    np.testing.assert_array_equal(model.predict(images), Ensemble.load(ensemble.uri).predict(images))


def test_a_run_that_was_begun_anew_is_another_and_one_made_longer_the_same(
    client: mlflow.MlflowClient, home: Store
) -> None:
    def ids(manifest: RunManifest) -> MLflowIds:
        MLflowRun(home, manifest).send({0: "RUNNING"}, None, "RUNNING")
        return home.get_record("mlflow.json", MLflowIds)

    first = ids(MANIFEST)
    assert ids(MANIFEST) == first
    other = replace(MANIFEST, identity="1" * 64)
    second = ids(other)
    assert second.run != first.run
    put_epochs(home, 0, 2)
    assert ids(other).folds.keys() == {"0"}
    longer = ids(replace(MANIFEST, identity="2" * 64))
    assert longer.run == second.run
    client.delete_run(longer.run)
    assert ids(other).run != longer.run


def test_a_setting_that_may_differ_between_commands_is_no_fault(client: mlflow.MlflowClient, home: Store) -> None:
    MLflowRun(home, MANIFEST).send({}, None, "RUNNING")
    moved = replace(MANIFEST, config=replace(MANIFEST.config, cluster=ClusterConfig(workers_per_fold=2)))
    MLflowRun(home, moved).send({}, None, "SCHEDULED")
    run = client.get_run(home.get_record("mlflow.json", MLflowIds).run)
    assert run.data.params["cluster.workers_per_fold"] == "1"
    assert run.info.status == "SCHEDULED"
    assert to_record(MANIFEST.config)["train"]["epochs"] == int(run.data.params["train.epochs"])
