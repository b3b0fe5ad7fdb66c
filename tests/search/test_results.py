"""What a search found: its table, its best trial, TensorBoard's files, and a run that uses the values."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from samples import STORED_CONFIG, dataset, metrics, read_events

from saltray.config import Config, choice
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.runs.history import EpochRecord
from saltray.search.results import (
    BestTrial,
    TrialRow,
    read_range_test,
    read_table,
    trials_frame,
    with_best_values,
    write_best,
    write_events,
    write_table,
)
from saltray.search.trials import Trial, create_search
from saltray.storage.base import Store

from .conftest import SpecMaker

STORED_BEST: dict[str, Any] = {
    "epoch": 4,
    "folds": [0],
    "score": 0.4166666666666667,
    "search": "s1",
    "trial": "trial-002",
    "trials": 4,
    "values": {"optim.lr": 0.002973, "train.batch_size": 16},
}
BEST = Trial(
    index=1,
    values={"optim.lr": 2e-3, "train.batch_size": 16},
    status="finished",
    epochs=tuple(
        EpochRecord(**vars(metrics(number, score, seconds=2.0)), at=1000.0 + number)
        for number, score in enumerate((0.2, 0.5, None), start=1)
    ),
)
LOST = Trial(
    index=0,
    values={"optim.lr": 1.0, "train.batch_size": 8},
    status="diverged",
    epochs=(metrics(1, 0.3, seconds=2.0),),
    reason="NaN",
)


def test_the_table_has_a_row_per_trial(home: Store) -> None:
    frame = trials_frame([LOST, BEST])
    expected = {
        "trial": ["trial-000", "trial-001"],
        "status": ["diverged", "finished"],
        "optim.lr": [1.0, 2e-3],
        "train.batch_size": [8, 16],
        "score": [None, 0.5],
        "valid_loss": [None, 0.25],
        "epoch": [None, 2],
        "epochs": [1, 3],
        "seconds": [2.0, 6.0],
        "reason": ["NaN", None],
    }
    assert list(frame.columns) == list(expected)
    for name, values in expected.items():
        assert [None if pd.isna(value) else value for value in frame[name]] == values, name
    write_table(home, [LOST, BEST])
    pd.testing.assert_frame_equal(home.get_table("trials.parquet").to_pandas(), frame, check_dtype=False)


def test_the_table_is_read_back_without_writing(home: Store, make_spec: SpecMaker) -> None:
    space = {"optim.lr": choice([2e-3, 1.0]), "train.batch_size": choice([8, 16])}
    with pytest.raises(NotFoundError):
        read_table(home)
    create_search(home, make_spec(space=space), dataset(), None)
    write_table(home, [LOST, BEST])
    before = list(home.list())
    assert read_table(home) == (
        space,
        [
            TrialRow(trial="trial-000", status="diverged", values=LOST.values, score=None),
            TrialRow(trial="trial-001", status="finished", values=BEST.values, score=0.5),
        ],
    )
    assert list(home.list()) == before


STORED_RANGE_TEST: dict[str, Any] = {
    "config": STORED_CONFIG,
    "losses": [1.1, 0.8, 1],
    "rates": [1e-05, 0.001, 0.1],
    "smooth": [1.0, 0.9, 1.0],
    "suggestion": 0.0001,
}


def test_a_range_test_is_read_where_there_is_one(home: Store) -> None:
    assert read_range_test(home) is None
    home.put_json("range-test.json", STORED_RANGE_TEST)
    found = read_range_test(home)
    assert found is not None
    assert (found.rates, found.suggestion) == ((1e-05, 0.001, 0.1), 0.0001)
    home.put_json("range-test.json", STORED_RANGE_TEST | {"rates": [1e-05]})
    with pytest.raises(IntegrityError, match=r"range-test\.json: .* differ in number"):
        read_range_test(home)
    home.put_json("range-test.json", STORED_RANGE_TEST | {"losses": ["a"]})
    with pytest.raises(IntegrityError, match=r"range-test\.json: losses\.0 is"):
        read_range_test(home)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("score", "score is 2.0"),
        ("optim.lr", "optim.lr of trial-000 is 2.0, which is not in the search's space; run"),
        ("status", "status"),
    ],
)
def test_a_table_that_is_damaged(home: Store, make_spec: SpecMaker, column: str, told: str) -> None:
    space = {"optim.lr": choice([2e-3, 1.0]), "train.batch_size": choice([8, 16])}
    create_search(home, make_spec(space=space), dataset(), None)
    write_table(home, [LOST, BEST])
    table = home.get_table("trials.parquet")
    wrong = pa.array(["?"] * 2 if column == "status" else [2.0] * 2)
    home.put_table("trials.parquet", table.set_column(table.schema.get_field_index(column), column, wrong))
    with pytest.raises(IntegrityError, match=f"trials.parquet: {told}"):
        read_table(home)


def test_the_columns_have_their_types_without_a_score() -> None:
    frame = trials_frame([LOST])
    types = {name: str(frame[name].dtype) for name in ("score", "valid_loss", "epoch", "epochs", "reason")}
    assert types == {
        "score": "float64",
        "valid_loss": "float64",
        "epoch": "Int64",
        "epochs": "int64",
        "reason": "object",
    }


def test_the_best_trial_is_written(home: Store, make_spec: SpecMaker) -> None:
    spec = make_spec(folds=(0, 2), space={"optim.lr": choice([2e-3, 1.0]), "train.batch_size": choice([8, 16])})
    record = write_best(home, spec, BEST, 2)
    assert home.get_record("best.json", BestTrial) == record
    assert home.get_json("best.json") == {
        "search": "s1",
        "trial": "trial-001",
        "values": {"optim.lr": 2e-3, "train.batch_size": 16},
        "score": 0.5,
        "epoch": 2,
        "folds": [0, 2],
        "trials": 2,
    }


def test_a_stored_record_is_written_again_as_the_same_bytes(home: Store) -> None:
    home.put_json("before.json", STORED_BEST)
    home.put_record("after.json", home.get_record("before.json", BestTrial))
    assert home.get("after.json") == home.get("before.json")


def test_tensorboard_has_the_epochs_and_the_values(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # it needs no temporary file
    write_events(home, BEST)
    (key,) = (entry.key for entry in home.list())
    assert key == "tensorboard/trial-001/events.out.tfevents.trial-001"
    events = list(read_events(home.get(key)))
    scores = [(event.step, value.simple_value, event.wall_time) for event, value in events if value.tag == "score"]
    assert scores == [(1, pytest.approx(0.2), 1001.0), (2, pytest.approx(0.5), 1002.0)]
    assert {value.tag for _, value in events} >= {"loss", "valid_loss", "iou", "dice", "lr", "images_per_second"}
    assert [value.simple_value for _, value in events if value.tag == "best_score"] == [0.5]
    assert any(value.tag.startswith("_hparams_") for _, value in events)


def test_a_diverged_trial_has_no_best_score_in_tensorboard(home: Store) -> None:
    write_events(home, LOST)
    tags = {value.tag for _, value in read_events(home.get("tensorboard/trial-000/events.out.tfevents.trial-000"))}
    assert "loss" in tags
    assert "best_score" not in tags


# A run with the best values


@pytest.mark.parametrize("source", ["searches/s1", "searches/s1/", "{store}/searches/s1"])
def test_a_run_takes_the_best_values_and_their_provenance(home: Store, tmp_path: Path, source: str) -> None:
    home.put_json("best.json", STORED_BEST)
    store = str(tmp_path) if source.startswith("searches") else str(tmp_path / "another")
    config, found = with_best_values(Config(data="d", store=store, run="r7"), source.format(store=tmp_path))
    assert (config.optim.lr, config.train.batch_size, config.run, config.store) == (0.002973, 16, "r7", store)
    assert type(config.train.batch_size) is int
    assert (found.uri, found.search, found.trial, found.trials) == (home.uri, "s1", "trial-002", 4)
    assert (found.score, found.values) == (0.4166666666666667, STORED_BEST["values"])


@pytest.mark.parametrize("source", ["", "s1", "searches", "searches/", "searches/a/b", "runs/r1"])
def test_what_names_no_search_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=r"names no search; use searches/NAME, or STORE/searches/NAME"):
        with_best_values(Config(data="d"), source)


def test_a_search_without_a_result_is_refused(home: Store, tmp_path: Path) -> None:
    config = Config(data="d", store=str(tmp_path))
    with pytest.raises(ConfigError, match="no search s1 in .*; there are none yet; `saltray tune --search.name s1` cr"):
        with_best_values(config, "searches/s1")
    home.put_json("manifest.json", {})
    with pytest.raises(ConfigError, match=r"no search rates in .*; there are s1$"):
        with_best_values(config, "searches/rates")
    with pytest.raises(ConfigError, match=r"no search s2 in .*; there are s1; did you mean s1\?"):
        with_best_values(config, "searches/s2")
    with pytest.raises(ConfigError, match=f"{home.uri} has no best.json; run `saltray tune --search.name s1` again"):
        with_best_values(config, "searches/s1")
    home.put_json("best.json", STORED_BEST | {"values": [1]})
    with pytest.raises(IntegrityError, match=r"best.json: values is \[1\]"):
        with_best_values(config, "searches/s1")
    home.put_json("best.json", STORED_BEST | {"values": {"optim.learning_rate": 0.1}})
    with pytest.raises(ConfigError, match="no field 'optim.learning_rate'"):
        with_best_values(config, "searches/s1")
