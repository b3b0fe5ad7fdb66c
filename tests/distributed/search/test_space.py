"""What may be searched, how it is said, and which values are tried."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from saltray.config import Config, ModelConfig
from saltray.distributed.search.space import (
    Choice,
    Range,
    Space,
    apply,
    check_space,
    choice,
    draw,
    loguniform,
    parse_space,
    uniform,
)
from saltray.errors import ConfigError

LR: Space = {"optim.lr": loguniform(1e-5, 1e-2)}


def test_the_command_line_says_the_same_as_the_functions() -> None:
    texts = [
        "optim.lr=log:1e-5:1e-2",
        "augment.shift=lin:0:0.2",
        "train.batch_size=16,32",
        "model.is_deconv=true,false",
    ]
    space = parse_space([*texts, "optim.schedule=constant,cosine", "train.bce=1"])
    assert space == {
        "optim.lr": loguniform(1e-5, 1e-2),
        "augment.shift": uniform(0, 0.2),
        "train.batch_size": choice([16, 32]),
        "model.is_deconv": choice([True, False]),
        "optim.schedule": choice(["constant", "cosine"]),
        "train.bce": choice([1.0]),
    }
    check_space(space, Config(data="d"))
    assert parse_space([f"{field}={values}" for field, values in space.items()]) == space


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("optim.lr", "no '='"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("lr=1", "no field 'lr'"),
        ("folds.count=2,3", "no field 'folds.count'"),
        ("optim.lr=", "no values"),
        ("optim.lr=1e-3,fast", "'fast' is no number"),
        ("optim.lr=1e-3,", "'' is no number"),
        ("optim.lr=log:1e-5", "log:LOW:HIGH"),
        ("optim.lr=log:a:b", "log:LOW:HIGH"),
        ("optim.lr=log:1e-2:1e-5", "minimum above its maximum"),
        ("optim.lr=log:1e-3:1e-3", "is empty"),
        ("optim.lr=log:0:1e-3", "the logarithm of 0"),
        ("optim.lr=lin:0:inf", "no finite number"),
        ("optim.lr=lin:nan:1", "no finite number"),
        ("optim.lr=1e-3,1e-3", "0.001 twice"),
        ("optim.lr=lin:0:1e-3", "optim.lr is 0"),
        ("train.batch_size=16,1.5", "'1.5' is no whole number"),
        ("train.batch_size=lin:8:32", "give its values as A,B,C"),
        ("train.batch_size=0,8", "train.batch_size is 0"),
        ("train.input_size=64,100", "needs a multiple of 64"),
        ("train.epochs=5,10", "cannot be searched"),
        ("model.architecture=albunet,vgg", "one of albunet"),
        ("model.is_deconv=yes", "neither true nor false"),
        ("model.weights=a,b", "cannot be searched"),
    ],
)
def test_a_slip_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        check_space(parse_space([text]), Config(data="d"))
    assert named in str(caught.value)
    assert text.split("=", maxsplit=1)[0] in str(caught.value)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({}, "no field"),
        ({"optim.lr": choice(["fast"])}, "'fast'"),
        ({"optim.lr": choice([True])}, "True"),
        ({"train.batch_size": choice([8.0])}, "whole number"),
    ],
)
def test_a_slip_in_a_script_is_named(space: Space, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_space(space, Config(data="d"))


@pytest.mark.parametrize("make", [lambda: choice([]), lambda: uniform(2, 1), lambda: loguniform(-1, 1)])
def test_impossible_values_cannot_be_made(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_a_field_twice() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr twice"):
        parse_space(["optim.lr=1", "optim.lr=2"])


def test_weights_fix_the_network() -> None:
    config = Config(data="d", model=ModelConfig(weights="IMAGENET1K_V1"))
    check_space(LR, config)
    for field, value in (("model.num_filters", 8), ("train.seed", 1)):
        with pytest.raises(ConfigError, match="begin with the same network"):
            check_space({field: choice([value])}, config)


def test_values_take_their_fields_place() -> None:
    config = apply(Config(data="d"), {"optim.lr": 0.5, "optim.weight_decay": 0, "train.batch_size": 16})
    assert (config.optim.lr, config.optim.weight_decay, config.train.batch_size) == (0.5, 0, 16)
    assert config.optim.ema_decay == Config(data="d").optim.ema_decay


def values_of(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = [draw(space, seed, index) for index in range(count)]
    assert all(values is not None for values in found)
    return [values for values in found if values is not None]


def test_draws_are_the_same_every_time_and_for_any_number_of_trials() -> None:
    assert values_of(LR, 20)[:5] == values_of(LR, 5)
    assert values_of(LR, 5) != values_of(LR, 5, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_draws_cover_the_range_evenly(seed: int) -> None:
    rates = sorted(values["optim.lr"] for values in values_of(LR, 12, seed))
    assert rates[0] >= 1e-5
    assert rates[-1] <= 1e-2
    logs = [math.log10(1e-5), *map(math.log10, rates), math.log10(1e-2)]
    # Independent draws leave a gap of a decade nearly always.
    assert max(b - a for a, b in pairwise(logs)) < 0.6


def test_draws_cover_two_fields_and_a_list() -> None:
    space: Space = {**LR, "optim.weight_decay": uniform(0, 1), "train.batch_size": choice([8, 16])}
    drawn = values_of(space, 64)
    quarters = Counter((values["optim.lr"] > 3.16e-4, values["optim.weight_decay"] > 0.5) for values in drawn)
    assert len(quarters) == 4
    assert min(quarters.values()) >= 12
    assert Counter(values["train.batch_size"] for values in drawn)[8] in range(28, 37)


def test_lists_alone_are_a_grid() -> None:
    space: Space = {"train.batch_size": choice([8, 16]), "optim.lr": choice([0.1, 0.2, 0.3])}
    drawn = values_of(space, 6)
    assert len({tuple(values.items()) for values in drawn}) == 6
    assert draw(space, 0, 6) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_no_value_leaves_its_range(share: float) -> None:
    for values in (loguniform(1.23456e-5, 6.54321e-2), uniform(-1.23456, 0.98765)):
        assert values.low <= values.at(share) <= values.high
    assert Choice((1, 2, 3)).at(share) in (1, 2, 3)


def test_a_value_at_the_end_of_its_range_is_known() -> None:
    values = loguniform(1e-4, 1)
    assert [values.near_end(value) for value in (1.2e-4, 1e-2, 0.9)] == ["lower", None, "upper"]
    assert uniform(0, 1).near_end(0.5) is None
    assert Range(0, 1, log=False).near_end(0.01) == "lower"
