"""A run in a real MLflow: complete, and nothing twice, whatever was interrupted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow_server import runs_of
from samples import EVALUATION, metrics

from saltray.config import Config
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance
from saltray.progress import FoldFinished, FoldsFinishedBefore, FoldsMissing, FoldStarted, MLflowFailed, Published
from saltray.runs.history import EpochRecord, History
from saltray.runs.mlflow_run import MLflowRun
from saltray.runs.records import RunManifest
from saltray.runs.tensorboard import SCALARS
from saltray.runs.tracking import tracked
from saltray.storage.base import Store
from saltray.storage.uri import open_store

MANIFEST = RunManifest(
    run="r1", identity="0" * 64, config=Config(data="d", recipe="fast-2"), dataset="0" * 64, provenance={}
)


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


def test_a_run_is_in_mlflow_as_a_whole_and_once(
    mlflow_client: mlflow.MlflowClient, home: Store, untrained: str, request: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_store(untrained)
    manifest = EnsembleManifest.from_json(source.get_json("manifest.json"))
    ensemble = open_store(f"{Path(home.uri).parents[1]}/ensembles/r1/v1")
    for entry in source.list():
        ensemble.put(entry.key, source.get(entry.key))
    ensemble.put_record("manifest.json", replace(manifest, evaluation=EVALUATION))
    events: list[Any] = []
    with tracked(MLflowRun(home, MANIFEST), events.append) as tell:
        for fold in (0, 1):
            tell(FoldStarted(fold))
        put_epochs(home, 0, 3)
        tell(FoldFinished(fold=0, score=0.5, seconds=1.0, queued=0))
    with (
        pytest.raises(KeyboardInterrupt),
        tracked(MLflowRun(home, MANIFEST), events.append) as tell,
    ):  # interrupted, and resumed
        tell(FoldStarted(1))
        put_epochs(home, 1, 2)
        raise KeyboardInterrupt
    for _ in range(2):  # the second changes nothing
        with tracked(MLflowRun(home, MANIFEST), events.append) as tell:
            put_epochs(home, 1, 3)
            tell(FoldsFinishedBefore((0, 1)))
            tell(Published(ensemble.uri))
        assert not [event for event in events if isinstance(event, MLflowFailed)]
        runs = runs_of(mlflow_client, request.node.name)
        assert set(runs) == {"r1", "fold-0", "fold-1"}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for name in ("fold-0", "fold-1"):
            run = runs[name]
            assert run.data.tags["mlflow.parentRunId"] == runs["r1"].info.run_id
            scores = mlflow_client.get_metric_history(run.info.run_id, "score")
            assert [(each.step, each.value, each.timestamp) for each in scores] == [
                (1, 0.125, 1001000),
                (3, 0.375, 1003000),
            ]
            assert [each.step for each in mlflow_client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]
            assert set(run.data.metrics) == set(SCALARS)
        params, tags = runs["r1"].data.params, runs["r1"].data.tags
        assert params["train.epochs"] == str(MANIFEST.config.train.epochs)
        assert len(params) > 60
        assert (tags["saltray.recipe"], tags["saltray.ensemble"]) == ("fast-2", ensemble.uri)
        assert runs["r1"].data.metrics["out_of_fold_score"] == EVALUATION.score
        assert runs["r1"].data.metrics["out_of_fold_score_low"] == EVALUATION.interval.low
        (version,) = mlflow_client.search_model_versions(f"run_id='{runs['r1'].info.run_id}'")
        assert (version.name, version.version, version.tags["saltray.ensemble"]) == ("r1", "1", ensemble.uri)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Retrying" not in printed.err
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    images = np.random.default_rng(0).integers(0, 256, (2, 101, 101), np.uint8)
    np.testing.assert_array_equal(model.predict(images), Ensemble.load(ensemble.uri).predict(images))


def test_a_run_made_longer_is_the_same(mlflow_client: mlflow.MlflowClient, home: Store, request: Any) -> None:
    put_epochs(home, 0, 2)
    for identity, status in (("1", "FINISHED"), ("2", "SCHEDULED")):
        run = MLflowRun(home, replace(MANIFEST, identity=identity * 64))
        run.take(FoldsFinishedBefore((0,)))
        if status == "SCHEDULED":
            put_epochs(home, 0, 4)
            run.take(FoldsMissing("r1", (1,)))
        run.end("FINISHED")
        run.send()
    runs = runs_of(mlflow_client, request.node.name)
    assert set(runs) == {"r1", "fold-0"}
    assert {name: run.info.status for name, run in runs.items()} == {"r1": "SCHEDULED", "fold-0": "FINISHED"}
    history = mlflow_client.get_metric_history(runs["fold-0"].info.run_id, "loss")
    assert [each.step for each in history] == [1, 2, 3, 4]


def test_a_run_names_the_search_that_its_values_come_from(
    mlflow_client: mlflow.MlflowClient, home: Store, request: Any
) -> None:
    found = SearchProvenance(
        uri="s3://b/searches/s1", search="s1", trial="trial-003", values={"optim.lr": 0.5}, score=0.8, trials=4
    )
    MLflowRun(home, replace(MANIFEST, search_provenance=found)).send()
    tags = runs_of(mlflow_client, request.node.name)["r1"].data.tags
    assert (tags["saltray.search"], tags["saltray.trial"]) == ("s3://b/searches/s1", "trial-003")
