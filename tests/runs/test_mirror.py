"""The runs of MLflow that mirror something are found again, and hold nothing twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow_server import runs_of
from samples import metrics

from saltray.runs.mirror import LONGEST, Mirror, MLflowIds
from saltray.storage.base import Store
from saltray.storage.uri import open_store

Open = Callable[..., Mirror]


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store")).sub("runs/r1")


@pytest.fixture
def open_mirror(mlflow_client: mlflow.MlflowClient, home: Store) -> Open:
    """`open_mirror(identity, extensible=)`, as each command does."""

    def open_it(identity: str = "0", *, extensible: bool = True) -> Mirror:
        mirror = Mirror(home, "r1", identity * 64, extensible=extensible, kind="run", part="fold")
        mirror.open({}, {})
        return mirror

    return open_it


@pytest.mark.parametrize("extensible", [True, False])
def test_what_was_begun_anew_is_another_run_and_what_was_made_longer_the_same(
    open_mirror: Open, home: Store, extensible: bool
) -> None:
    first = open_mirror(extensible=extensible)
    assert open_mirror(extensible=extensible).run == first.run
    second = open_mirror("1", extensible=extensible)
    assert second.run != first.run
    second.nested("0", "fold-0")
    assert (open_mirror("2", extensible=extensible).run == second.run) == extensible
    assert home.get_json("mlflow.json")["identity"] == "2" * 64


def test_ids_that_saltray_0_1_kept_are_read_and_written_as_they_were(home: Store) -> None:
    stored = {"experiment": "1", "folds": {"0": "abc"}, "identity": "1" * 64, "run": "def"}
    home.put_json("mlflow.json", stored)
    ids = home.get_record("mlflow.json", MLflowIds)
    assert ids.nested == {"0": "abc"}
    home.put_record("again.json", ids)
    assert home.get("again.json") == home.get("mlflow.json")


def test_runs_that_somebody_deleted_are_made_again(
    mlflow_client: mlflow.MlflowClient, open_mirror: Open, request: Any
) -> None:
    mirror = open_mirror()
    kept, deleted = (mirror.nested(part, f"fold-{part}") for part in ("0", "1"))
    mirror.tell_status(kept, "FINISHED")
    mlflow_client.delete_run(deleted)
    again = open_mirror()
    assert again.run == mirror.run
    assert again.nested("0", "fold-0") == kept
    assert again.nested("1", "fold-1") not in (kept, deleted)
    assert [again.has_told("0", "FINISHED"), again.has_told("0", "FAILED"), again.has_told("1", "FINISHED")] == [
        True,
        False,
        False,
    ]
    assert set(runs_of(mlflow_client, request.node.name)) == {"r1", "fold-0", "fold-1"}
    mlflow_client.delete_run(mirror.run)
    assert open_mirror().run != mirror.run


def test_settings_and_epochs_are_sent_once(mlflow_client: mlflow.MlflowClient, open_mirror: Open) -> None:
    epochs = [metrics(number, 0.1 * number) for number in range(1, 4)]
    for count, batch in ((2, 8), (3, 16)):
        mirror = open_mirror()
        mirror.send_settings(mirror.run, {"train.batch_size": batch, f"new.{count}": "x" * 10_000})
        mirror.send_epochs(mirror.run, epochs[:count])
        mirror.send_epochs(mirror.run, epochs[:count])
        mirror.set_metric(mirror.run, "best_score", 0.5, step=count)
        mirror.set_tags(mirror.run, {"saltray.note": "y" * 10_000})
    found = mlflow_client.get_run(mirror.run)
    assert found.data.params == {"train.batch_size": "8", "new.2": "x" * LONGEST, "new.3": "x" * LONGEST}
    assert found.data.tags["saltray.note"] == "y" * LONGEST
    for name, steps in (("score", [1, 2, 3]), ("lr", [1, 2, 3]), ("best_score", [2])):
        assert [each.step for each in mlflow_client.get_metric_history(mirror.run, name)] == steps


def test_epochs_are_at_the_time_when_they_ended_where_that_is_known(
    mlflow_client: mlflow.MlflowClient, open_mirror: Open
) -> None:
    from saltray.runs.history import EpochRecord

    mirror = open_mirror()
    known = EpochRecord(**vars(metrics(1)), at=1000.5)
    mirror.send_epochs(mirror.run, [known, replace(metrics(2))])
    first, second = mlflow_client.get_metric_history(mirror.run, "loss")
    assert first.timestamp == 1_000_500
    assert second.timestamp > 1_700_000_000_000
