"""Where the values of trials come from: spread evenly, a grid, or learned."""

import sys
from typing import Any

import pytest

from saltray.config import SearchConfig, Space, choice, loguniform, uniform
from saltray.errors import ConfigError
from saltray.search.samplers import (
    STARTUP_TRIALS,
    QuasiRandomSampler,
    Sampler,
    TPESampler,
    import_optuna,
    make_sampler,
)
from saltray.search.space import draw_values

LR: Space = {"optim.lr": loguniform(1e-5, 1e-2)}
GRID: Space = {"train.batch_size": choice([8, 16, 32])}


def is_good(rate: float) -> bool:
    return 1e-3 < rate < 3e-3


def propose(sampler: Sampler, index: int) -> float:
    values = sampler.propose(index)
    assert values is not None
    return float(values["optim.lr"])


@pytest.mark.parametrize(("name", "kind"), [("quasirandom", QuasiRandomSampler), ("tpe", TPESampler)])
def test_a_sampler_by_its_name(name: Any, kind: type[Any]) -> None:
    assert type(make_sampler(SearchConfig(sampler=name))) is kind


def test_quasirandom_values_do_not_depend_on_results() -> None:
    sampler = make_sampler(SearchConfig(space=LR, seed=3))
    for index in range(20):
        values = sampler.propose(index)
        assert values == draw_values(LR, 3, index)
        assert values is not None
        sampler.tell(index, values, float(index))


def test_a_grid_ends_by_itself() -> None:
    sampler = make_sampler(SearchConfig(space=GRID))
    drawn = [sampler.propose(index) for index in range(4)]
    assert sorted(values["train.batch_size"] for values in drawn[:3] if values) == [8, 16, 32]
    assert drawn[3] is None


def test_tpe_starts_with_the_quasirandom_values() -> None:
    sampler = make_sampler(SearchConfig(space=LR, sampler="tpe", seed=3))
    assert [sampler.propose(index) for index in range(STARTUP_TRIALS)] == [
        draw_values(LR, 3, index) for index in range(STARTUP_TRIALS)
    ]


def test_tpe_learns_where_the_good_values_are() -> None:
    sampler = make_sampler(SearchConfig(space=LR, sampler="tpe"))
    rates = []
    for index in range(40):
        rates.append(propose(sampler, index))
        sampler.tell(index, {"optim.lr": rates[-1]}, 1.0 if is_good(rates[-1]) else 0.1)
    assert sum(5e-4 < rate < 6e-3 for rate in rates[20:]) > 12  # 7 of 20 by chance
    assert all(rate == float(f"{rate:.4g}") for rate in rates)


def test_tpe_learns_from_the_trials_of_an_earlier_command() -> None:
    sampler = make_sampler(SearchConfig(space=LR, sampler="tpe"))
    for index in range(40):
        values = draw_values(LR, 0, index)
        assert values is not None
        sampler.tell(index, values, 1.0 if is_good(float(values["optim.lr"])) else 0.1)
    rates = [propose(sampler, index) for index in range(40, 60)]
    assert sum(5e-4 < rate < 6e-3 for rate in rates) > 12


def test_tpe_is_the_same_every_time() -> None:
    def rates(seed: int) -> list[float]:
        sampler = make_sampler(SearchConfig(space=LR, sampler="tpe", seed=seed))
        drawn = []
        for index in range(12):
            drawn.append(propose(sampler, index))
            sampler.tell(index, {"optim.lr": drawn[-1]}, drawn[-1])
        return drawn

    assert rates(0) == rates(0)
    assert rates(0)[STARTUP_TRIALS:] != rates(1)[STARTUP_TRIALS:]


def test_tpe_keeps_to_the_values_of_a_list() -> None:
    space: Space = {**GRID, "model.is_deconv": choice([True, False])}
    sampler = make_sampler(SearchConfig(space=space, sampler="tpe"))
    for index in range(12):
        values = sampler.propose(index)
        assert values is not None
        assert (type(values["train.batch_size"]), type(values["model.is_deconv"])) == (int, bool)
        assert values["train.batch_size"] in (8, 16, 32)
        sampler.tell(index, values, 0.5)


def test_tpe_without_optuna_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"`pip install 'saltray\[tpe\]'`, or use quasirandom"):
        import_optuna()
    with pytest.raises(ConfigError, match="needs Optuna"):
        make_sampler(SearchConfig(sampler="tpe"))


def test_tpe_stays_within_a_range_narrower_than_its_digits() -> None:
    sampler = make_sampler(SearchConfig(space={"optim.ema_decay": uniform(0.99, 0.99999)}, sampler="tpe"))
    for index in range(20):
        values = sampler.propose(index)
        assert values is not None
        assert 0.99 <= float(values["optim.ema_decay"]) <= 0.99999
        sampler.tell(index, values, float(values["optim.ema_decay"]))
