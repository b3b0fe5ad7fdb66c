"""A search in the store, and what goes on from it: trials, the scheduler, the samplers."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from saltray.config import Config, TrainConfig
from saltray.distributed.objective import best_epoch, objective
from saltray.distributed.search.plan import Plan
from saltray.distributed.search.records import (
    Trial,
    begin,
    conclude,
    propose,
    table_of,
    take_stock,
    write_results,
)
from saltray.distributed.search.space import choice, draw, loguniform
from saltray.errors import ConfigError
from saltray.storage.base import Store
from saltray.storage.names import open_store

DATASET = {"digest": "tiles"}


def plan_of(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "config": Config(data="d", train=TrainConfig(epochs=9)),
        "name": "s1",
        "space": {"optim.lr": loguniform(1e-5, 1e-2)},
        "trials": 4,
        "folds": (0,),
        "sampler": "quasirandom",
        "prune": True,
        "concurrent": None,
        "seed": 0,
    }
    return Plan(**values | changes)


def epochs_of(*scores: float | None, loss: float = 0.5) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "epoch": at,
            "loss": loss,
            "lr": 0.1,
            "seconds": 2.0,
            "images_per_second": 10.0,
            "score": score,
            "iou": score,
            "dice": score,
            "valid_loss": None if score is None else loss,
            "at": 1000.0 + at,
        }
        for at, score in enumerate(scores, start=1)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path)).sub("searches/s1")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"folds": (5,)}, "no fold 5; the split has folds 0 to 4"),
        ({"folds": (-1,)}, "no fold -1"),
        ({"folds": ()}, "no fold is named"),
        ({"folds": (0, 0)}, "folds 0, 0"),
        ({"concurrent": 0}, "concurrent is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"name": "../s"}, "'../s'"),
        ({"sampler": "bayes"}, "'bayes'"),
    ],
)
def test_a_plan_is_checked(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan_of(**changes)


@pytest.mark.parametrize(("epochs", "rungs"), [(1, []), (2, [1]), (9, [1, 3]), (10, [2, 6]), (60, [7, 21])])
def test_rungs(epochs: int, rungs: list[int]) -> None:
    config = Config(data="d", train=TrainConfig(epochs=epochs))
    assert plan_of(config=config).rungs == rungs
    assert plan_of(config=config, prune=False).rungs == []


def test_a_score_decides_then_the_loss_then_the_first() -> None:
    first, better, worse = epochs_of(0.5, 0.6, 0.4)
    assert best_epoch([first, better, worse]) == better
    lower = {**first, "epoch": 4, "valid_loss": 0.4}
    assert best_epoch([first, lower]) == lower
    assert best_epoch([first, {**first, "epoch": 4}]) == first
    assert best_epoch(epochs_of(None, None)) is None
    assert objective(None) == 0
    # One tile of a hundred thousand at one threshold counts for more than any loss.
    assert objective({"score": 0.5 + 1e-6, "valid_loss": 1e9}) > objective({"score": 0.5, "valid_loss": 0.0})
    assert objective({"score": 0.5, "valid_loss": float("nan")}) == 0.5
    assert objective({"score": float("nan"), "valid_loss": 0.1}) == 0


def test_a_diverged_trial_loses_whatever_it_scored() -> None:
    poor = Trial(index=3, values={}, status="stopped", epochs=epochs_of(0.1))
    diverged = Trial(index=0, values={}, status="diverged", epochs=epochs_of(0.9), reason="NaN")
    assert max([diverged, poor], key=lambda trial: trial.rank) == poor
    # Equal trials: the first one.
    twin = dataclasses.replace(poor, index=1)
    assert max([poor, twin], key=lambda trial: trial.rank) == twin


def test_a_search_is_begun_once(store: Store) -> None:
    begin(store, plan_of(), DATASET, None)
    begin(store, plan_of(trials=40, concurrent=3), DATASET, None)
    for changes, named in (
        ({"seed": 1}, "seed"),
        ({"space": {"optim.lr": loguniform(1e-5, 1e-1)}}, "space"),
        ({"folds": (1,)}, "folds"),
        ({"prune": False}, "prune"),
        ({"config": Config(data="d", train=TrainConfig(epochs=8))}, r"train.epochs \(9\)"),
    ):
        with pytest.raises(ConfigError, match=f"search s1 was begun with other {named}"):
            begin(store, plan_of(**changes), DATASET, None)
    with pytest.raises(ConfigError, match="other tiles"):
        begin(store, plan_of(), {"digest": "others"}, None)
    with pytest.raises(ConfigError, match="other encoder weights"):
        begin(store, plan_of(), DATASET, "digest")


def test_trials_are_read_back(store: Store) -> None:
    values = {"optim.lr": 1e-3}
    ended = dataclasses.replace(propose(store, 0, values), status="stopped", epochs=epochs_of(0.2, 0.3))
    store.put("trial-000/checkpoints/epoch-00001/state.pt", b"x")
    conclude(store, ended)
    assert not list(store.list("trial-000/checkpoints"))
    running = dataclasses.replace(propose(store, 1, values), epochs=epochs_of(0.1))
    kept = {"history": [{"note": "computes in fp32"}, *running.epochs]}
    store.put_json("trial-001/checkpoints/epoch-00001/manifest.json", kept)
    store.put("trial-001/checkpoints/epoch-00002/state.pt", b"half a checkpoint")
    store.put("trial-001/history.jsonl", b"".join(pd.Series(e).to_json().encode() + b"\n" for e in epochs_of(0.1, 0.2)))
    through = propose(store, 2, values)
    history = "".join(pd.Series(epoch).to_json() + "\n" for epoch in epochs_of(0.1, 0.2, 0.3))
    store.put("trial-002/history.jsonl", history.encode())
    failed = dataclasses.replace(propose(store, 1000, values), status="failed", reason="lost")
    store.put("trial-1000/checkpoints/epoch-00001/state.pt", b"x")
    conclude(store, failed)
    assert list(store.list("trial-1000/checkpoints"))
    found = take_stock(store, 3)
    assert found[0] == ended
    assert found[1] == running
    assert (found[2].name, found[2].status, len(found[2].epochs)) == (through.name, "finished", 3)
    assert found[3] == failed


def test_results_are_a_table_and_the_best(store: Store) -> None:
    best = Trial(index=1, values={"optim.lr": 2e-3}, status="finished", epochs=epochs_of(0.2, 0.5, 0.4))
    lost = Trial(index=0, values={"optim.lr": 1.0}, status="diverged", epochs=epochs_of(0.3), reason="NaN")
    write_results(store, plan_of(), [lost, best], best)
    record = store.get_json("best.json")
    assert (record["trial"], record["score"], record["epoch"]) == ("trial-001", 0.5, 2)
    assert record["values"] == {"optim.lr": 2e-3}
    frame = store.get_table("trials.parquet").to_pandas()
    pd.testing.assert_frame_equal(frame, table_of([lost, best]), check_dtype=False)
    assert list(frame["status"]) == ["diverged", "finished"]
    assert frame["score"].isna().tolist() == [True, False]
    assert frame["seconds"].tolist() == [2.0, 6.0]


def asked(scheduler: Any, name: str, epoch: int, score: float) -> str:
    from types import SimpleNamespace

    from saltray.distributed.objective import OBJECTIVE

    trial = SimpleNamespace(trial_id=name)
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {"epoch": epoch, OBJECTIVE: score}))


def test_the_scheduler_remembers_trials_of_an_earlier_attempt() -> None:
    from saltray.distributed.search.tuner import scheduler_of

    known = [
        Trial(index=index, values={}, status="finished", epochs=epochs_of(score, score, score))
        for index, score in enumerate((0.2, 0.3, 0.4))
    ]
    anew, later = scheduler_of(plan_of(), []), scheduler_of(plan_of(), known)
    assert asked(anew, "x", 1, 0.3) == "CONTINUE"
    assert asked(later, "x", 1, 0.3) == "STOP"
    assert asked(later, "y", 1, 0.5) == "CONTINUE"
    # Only the validation loss tells these apart.
    tied = scheduler_of(plan_of(), [dataclasses.replace(known[0], epochs=epochs_of(0.2, loss=loss)) for loss in (1, 2)])
    assert asked(tied, "x", 1, objective(epochs_of(0.2, loss=3)[0])) == "STOP"
    assert asked(tied, "y", 1, objective(epochs_of(0.2, loss=0.5)[0])) == "CONTINUE"


def proposals(store: Store, plan: Plan, trials: list[Trial]) -> Any:
    from saltray.distributed.search.proposals import Proposals

    return Proposals(plan, store, trials)


@pytest.mark.parametrize("sampler", ["quasirandom", "tpe"])
def test_what_was_left_undone_comes_first(store: Store, sampler: str) -> None:
    plan = plan_of(sampler=sampler)
    values = draw(plan.space, 0, 1)
    assert values is not None
    first = proposals(store, plan, [])
    assert first.suggest("a")["index"] == 0
    assert first.suggest("b") == {"index": 1, "values": values}
    known = take_stock(store, 9)
    assert [trial.values for trial in known] == [draw(plan.space, 0, 0), values]
    ended = dataclasses.replace(known[0], status="finished", epochs=epochs_of(0.5))
    again = proposals(store, plan, [ended, known[1]])
    given = [again.suggest(name) for name in "cdef"]
    assert [answer["index"] for answer in given[:3]] == [1, 2, 3]
    assert given[0]["values"] == values
    assert given[3] == "FINISHED"
    again.on_trial_complete("c", {"objective": 0.4})
    again.on_trial_complete("d", None, error=True)


def test_a_grid_ends_by_itself(store: Store) -> None:
    plan = plan_of(space={"train.batch_size": choice([8, 16, 32])}, trials=16)
    source = proposals(store, plan, [])
    given = [source.suggest(str(at)) for at in range(4)]
    assert {answer["values"]["train.batch_size"] for answer in given[:3]} == {8, 16, 32}
    assert given[3] == "FINISHED"


def test_tpe_learns_where_the_good_values_are(store: Store) -> None:
    plan = plan_of(sampler="tpe", trials=40)
    source = proposals(store, plan, [])
    for at in range(40):
        rate = source.suggest(str(at))["values"]["optim.lr"]
        source.on_trial_complete(str(at), {"objective": 1.0 if 1e-3 < rate < 3e-3 else 0.1})
    late = [trial.values["optim.lr"] for trial in take_stock(store, 9)[20:]]
    assert sum(5e-4 < rate < 6e-3 for rate in late) > 12  # 7 of 20 by chance


def test_tpe_without_optuna_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from saltray.distributed.search.proposals import import_optuna

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"saltray\[tpe\]"):
        import_optuna()
