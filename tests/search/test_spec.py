"""A search as it was asked for: its length, its name, its rungs, and what does not fit together."""

from dataclasses import replace
from typing import Any

import pytest

from saltray.config import Config, ModelConfig, SearchConfig, TrainConfig, choice, loguniform, uniform
from saltray.errors import ConfigError
from saltray.records import digest
from saltray.search.spec import SearchSpec

from .conftest import SpecMaker

CONFIG = Config(data="d", run="r7", train=TrainConfig(epochs=9))


@pytest.mark.parametrize(("given", "expected"), [(None, "s1"), ("s2", "s2")])
def test_a_search_has_its_own_name_or_the_default_one(given: str | None, expected: str) -> None:
    assert SearchSpec.create(CONFIG, SearchConfig(name=given)).name == expected


def test_a_search_has_epochs_of_its_own_or_those_of_the_run() -> None:
    assert SearchSpec.create(CONFIG, SearchConfig()).config == CONFIG
    short = SearchSpec.create(CONFIG, SearchConfig(epochs=2))
    assert short.config == replace(CONFIG, train=TrainConfig(epochs=2))
    assert short.rungs == (1,)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"folds": (5,)}, "search.folds names fold 5; the split has folds 0 to 4"),
        ({"folds": (0, -1)}, "search.folds names fold -1"),
        ({"space": {}}, "search.space is empty"),
        ({"space": {"optim.lrr": choice([1])}}, "did you mean optim.lr"),
        ({"space": {"train.epochs": choice([5])}}, "use --search.epochs instead"),
        # Each end is possible by itself, and their combination is not.
        (
            {"space": {"loss.bce": choice([0, 1]), "loss.dice": choice([0, 1])}},
            "all weights of loss are 0",
        ),
    ],
)
def test_what_does_not_fit_the_configuration_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchSpec.create(CONFIG, SearchConfig(**settings))


def test_only_the_trials_that_will_run_are_checked(make_spec: SpecMaker) -> None:
    space = {"loss.bce": choice([0, 1]), "loss.dice": choice([0, 1])}
    possible = [seed for seed in range(20) if _is_possible(make_spec, space, seed)]
    assert 0 < len(possible) < 20


def _is_possible(make_spec: SpecMaker, space: Any, seed: int) -> bool:
    try:
        make_spec(space=space, trials=2, seed=seed)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(1, ()), (2, (1,)), (4, (1, 3)), (9, (1, 3)), (10, (2, 6)), (60, (7, 21))]
)
def test_trials_are_compared_at_a_ninth_and_a_third_of_their_length(
    make_spec: SpecMaker, epochs: int, rungs: tuple[int, ...]
) -> None:
    config = Config(data="d", train=TrainConfig(epochs=epochs))
    assert make_spec(config=config).rungs == rungs
    assert make_spec(config=config, prune=False).rungs == ()
    assert make_spec(epochs=epochs).rungs == rungs


def test_the_identity_is_all_that_decides_the_trials(make_spec: SpecMaker) -> None:
    space = {"optim.weight_decay": uniform(0, 1), "optim.lr": loguniform(1e-5, 1e-2)}
    spec = make_spec(space=space, folds=(0, 2))
    assert spec.identity == {
        "config": spec.config.identity,
        "space": {"optim.lr": "log:1e-05:0.01", "optim.weight_decay": "lin:0:1"},
        "folds": [0, 2],
        "sampler": "quasirandom",
        "prune": True,
        "seed": 0,
    }
    assert list(spec.space_text) == ["optim.lr", "optim.weight_decay"]
    assert make_spec(space=space, folds=(0, 2), trials=40, concurrent=3, name="s9").identity == spec.identity
    # The same settings are the same search for every saltray, whatever its defaults.
    plain = ModelConfig(decoder_batchnorm=False, deep_supervision=False)
    first = make_spec(config=Config(data="d", model=plain, train=TrainConfig(epochs=9)))
    assert digest(first.identity) == "9562894fe1f3f23da24fc0dfe601f0c2fcdd88e96ef6737ca6d22830259c15f5"
