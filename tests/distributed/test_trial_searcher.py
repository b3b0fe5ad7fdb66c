"""Which values Ray Tune is given next."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ray.tune.search import Searcher
from samples import metrics

from saltray.config import choice
from saltray.distributed.trial_searcher import NotPickled, TrialSearcher
from saltray.errors import StorageError
from saltray.search.objective import OBJECTIVE
from saltray.search.space import draw_values
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial, load_trials
from saltray.storage.base import Store

MakeSpec = Callable[..., SearchSpec]
EPOCHS = 9


def test_a_trial_is_in_the_store_before_it_starts(search_home: Store, make_spec: MakeSpec) -> None:
    spec = make_spec()
    searcher = TrialSearcher(spec, search_home, [], [])
    assert (searcher.metric, searcher.mode) == (OBJECTIVE, "max")
    given = [searcher.suggest(name) for name in "ab"]
    assert given == [{"index": index, "values": draw_values(spec.settings.space, 0, index)} for index in (0, 1)]
    assert [{"index": trial.index, "values": trial.values} for trial in load_trials(search_home, EPOCHS)] == given


@pytest.mark.parametrize("sampler", ["quasirandom", "tpe"])
def test_what_an_earlier_command_left_comes_first(search_home: Store, make_spec: MakeSpec, sampler: str) -> None:
    spec = make_spec(sampler=sampler)
    first = TrialSearcher(spec, search_home, [], [])
    values = [first.suggest(name)["values"] for name in "abc"]
    known = load_trials(search_home, EPOCHS)
    ended = replace(known[0], status="finished", epochs=(metrics(1, 0.5),))
    failed = replace(known[2], status="failed", reason="lost")
    again = TrialSearcher(spec, search_home, [ended, known[1], failed], [])
    given = [again.suggest(name) for name in "defg"]
    assert [answer["index"] for answer in given[:3]] == [1, 2, 3]
    assert [answer["values"] for answer in given[:2]] == values[1:]
    assert given[3] == Searcher.FINISHED


def test_a_grid_ends_by_itself(search_home: Store, make_spec: MakeSpec) -> None:
    searcher = TrialSearcher(make_spec(space={"train.batch_size": choice([8, 16, 32])}, trials=16), search_home, [], [])
    given = [searcher.suggest(str(at)) for at in range(4)]
    assert {answer["values"]["train.batch_size"] for answer in given[:3]} == {8, 16, 32}
    assert given[3] == Searcher.FINISHED


class FakeSampler:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []

    def propose(self, index: int) -> dict[str, Any]:
        return {"optim.lr": 10.0**-index}

    def tell(self, index: int, values: Any, objective: float) -> None:
        assert values == self.propose(index)
        self.told.append((index, objective))


def test_the_sampler_is_told_how_each_trial_ended(
    search_home: Store, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = FakeSampler()
    monkeypatch.setattr("saltray.distributed.trial_searcher.make_sampler", lambda settings: sampler)
    past = Trial(index=0, values=sampler.propose(0), status="finished", epochs=(metrics(1, 0.5),))
    lost = Trial(index=1, values=sampler.propose(1), status="diverged", epochs=(metrics(1, 0.9),))
    searcher = TrialSearcher(make_spec(trials=5), search_home, [past, lost], [])
    assert sampler.told == [(0, past.rank[0]), (1, 0.0)]
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_complete("a", {OBJECTIVE: 0.4, "epoch": 3})
    searcher.on_trial_complete("b", {OBJECTIVE: 0.9}, error=True)
    searcher.on_trial_complete("c", None)
    assert sampler.told[2:] == [(2, 0.4), (3, 0.0), (4, 0.0)]


def test_ray_tune_can_pickle_it_to_nothing(search_home: Store, make_spec: MakeSpec) -> None:
    assert type(pickle.loads(pickle.dumps(TrialSearcher(make_spec(), search_home, [], [])))) is NotPickled


def test_an_error_is_kept_and_nothing_is_done_after_it(search_home: Store, make_spec: MakeSpec) -> None:
    errors: list[Exception] = []
    searcher = TrialSearcher(make_spec(), search_home, [], errors)
    away = StorageError("the store is away")

    class Away:
        def put_record(self, key: str, record: Any) -> None:
            raise away

    searcher._home = Away()  # type: ignore[assignment]
    with pytest.raises(StorageError):
        searcher.suggest("a")
    assert errors == [away]
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("c", None)  # of a trial that it does not know
    assert errors == [away]
