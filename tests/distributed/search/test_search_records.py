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
