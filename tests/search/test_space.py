"""What may be searched, how it is written, and which values are tried."""

import itertools
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from saltray.config import Choice, Config, ModelConfig, Range, Space, Values, choice, loguniform, uniform
from saltray.errors import ConfigError
from saltray.search.space import (
    apply_values,
    check_space,
    draw_values,
    end_near,
    list_values,
    parse_space,
    parse_values,
    value_at,
)

LR: Space = {"optim.lr": loguniform(1e-5, 1e-2)}
CONFIG = Config(data="d")


def test_text_and_functions_make_the_same_space() -> None:
    texts = [
        "optim.lr=log:1e-5:1e-2",
        "augment.shift=lin:0:0.2",
        "train.batch_size=16,32",
        "model.is_deconv=true,false",
        "optim.schedule=constant, cosine",
        "loss.bce=1",
    ]
    space = parse_space(texts)
    assert space == {
        "optim.lr": loguniform(1e-5, 1e-2),
        "augment.shift": uniform(0, 0.2),
        "train.batch_size": choice([16, 32]),
        "model.is_deconv": choice([True, False]),
        "optim.schedule": choice(["constant", "cosine"]),
        "loss.bce": choice([1.0]),
    }
    assert type(space["loss.bce"].values[0]) is float  # type: ignore[union-attr]
    check_space(space, CONFIG)
    assert parse_space([f"{field}={values}" for field, values in space.items()]) == space


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("optim.lr", "no '='"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("lr=1", "no field 'lr'"),
        ("folds.count=2,3", "no field 'folds.count'"),
        ("cluster.workers_per_fold=1,2", "no field 'cluster.workers_per_fold'"),
        ("optim.lr=", "no values"),
        ("optim.lr=1e-3,fast", "'fast' is not a number"),
        ("optim.lr=1e-3,", "'' is not a number"),
        ("optim.lr=log:1e-5", "log:LOW:HIGH"),
        ("optim.lr=log:a:b", "log:LOW:HIGH"),
        ("optim.lr=log:1e-2:1e-5", "minimum above its maximum"),
        ("optim.lr=log:1e-3:1e-3", "is empty"),
        ("optim.lr=log:0:1e-3", "the logarithm of 0"),
        ("optim.lr=lin:0:inf", "not a finite number"),
        ("optim.lr=lin:nan:1", "not a finite number"),
        ("optim.lr=1e-3,1e-3", "0.001 twice"),
        ("optim.lr=lin:0:1e-3", "optim.lr is 0"),
        ("train.batch_size=16,1.5", "'1.5' is not an integer"),
        ("train.batch_size=lin:8:32", "list its values as A,B,C"),
        ("train.batch_size=0,8", "train.batch_size is 0"),
        ("train.input_size=64,100", "needs a multiple of 64"),
        ("train.epochs=5,10", "cannot be searched: trials of unequal length"),
        ("train.eval_every=1,2", "cannot be searched: it changes only how often"),
        ("train.snapshots=1,2", "cannot be searched: a trial is scored by its last weights"),
        ("train.checkpoint_every=0,60", "cannot be searched: it changes no score"),
        ("model.architecture=albunet,vgg", "one of albunet"),
        ("model.encoder=resnet18,vgg11", "model.encoder is vgg11, but albunet takes one of resnet34"),
        ("model.is_deconv=yes", "'yes' is not true or false"),
        ("model.weights=a,b", "cannot be searched: they are read once"),
    ],
)
def test_a_mistake_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        check_space(parse_space([text]), CONFIG)
    assert named in str(caught.value)
    assert text.split("=", maxsplit=1)[0] in str(caught.value)


def test_a_name_is_told_no_longer_than_that() -> None:
    with pytest.raises(ConfigError, match=f"there is no field '{'x' * 80}' to search"):
        parse_space([f"{'x' * 3000}=1"])


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({}, "search.space is empty"),
        ({"optim.lr": choice(["fast"])}, "optim.lr cannot be 'fast': it takes a number"),
        ({"optim.lr": choice([True])}, "optim.lr cannot be True: it takes a number"),
        ({"train.batch_size": choice([8.0])}, "train.batch_size cannot be 8.0: it takes an integer"),
        ({"optim.optimizer": choice(["sgd"])}, "optim.optimizer cannot be 'sgd': it takes one of adam, adamw"),
    ],
)
def test_a_mistake_in_a_script_is_named(space: Space, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_space(space, CONFIG)


def test_a_field_twice() -> None:
    with pytest.raises(ConfigError, match=r"search.space has optim\.lr twice"):
        parse_space(["optim.lr=1", "optim.lr=2"])


def test_a_list_has_values_of_the_fields_type() -> None:
    values = list_values("optim.lr", [1, 0.5]).values
    assert (values, [type(value) for value in values]) == ((1.0, 0.5), [float, float])
    assert list_values("train.batch_size", [16, 32]) == choice([16, 32]) == parse_values("train.batch_size", "16,32")
    assert list_values("model.is_deconv", False) == choice([False])
    assert list_values("optim.lr", 0.00123456789).values == (0.00123456789,)


@pytest.mark.parametrize(
    ("field", "values", "named"),
    [
        ("optim.lr", ["1e-3"], 'search.space optim.lr: "1e-3" is not a number; use log:LOW:HIGH'),
        ("optim.lr", [[1]], r"search.space optim.lr: \[1\] is not a number"),
        ("optim.lr", True, "search.space optim.lr: true is not a number"),
        ("train.batch_size", [8.0], "search.space train.batch_size: 8.0 is not an integer"),
        ("train.batch_size", [], "search.space train.batch_size: a choice has no values"),
        ("train.batch_size", [8, 8], "search.space train.batch_size: the choice 8,8 has 8 twice"),
        ("optim.lrr", [1], "did you mean optim.lr"),
    ],
)
def test_a_mistake_in_a_list_is_named(field: str, values: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        list_values(field, values)


def test_weights_fix_the_network() -> None:
    config = Config(data="d", model=ModelConfig(weights="IMAGENET1K_V1"))
    check_space(LR, config)
    for field, value in (("model.num_filters", 8), ("train.seed", 1)):
        check_space({field: choice([value])}, CONFIG)
        with pytest.raises(ConfigError, match=f"{field} cannot be searched with model.weights"):
            check_space({field: choice([value])}, config)


def test_values_replace_those_of_their_fields() -> None:
    config = apply_values(CONFIG, {"optim.lr": 0.5, "optim.weight_decay": 0, "train.batch_size": 16})
    assert (config.optim.lr, config.optim.weight_decay, config.train.batch_size) == (0.5, 0, 16)
    assert config.optim.ema_decay == CONFIG.optim.ema_decay
    for values in ({"optim.lrr": 0.5}, {"run": "r7"}, {"optim.lr": -1.0}):
        with pytest.raises(ConfigError):
            apply_values(CONFIG, values)


# What is tried


def values_of(space: Space, count: int, seed: int = 0) -> list[Values]:
    drawn = [draw_values(space, seed, index) for index in range(count)]
    assert all(values is not None for values in drawn)
    return [values for values in drawn if values is not None]


def test_trials_are_the_same_every_time_and_for_any_number_of_them() -> None:
    assert values_of(LR, 20)[:5] == values_of(LR, 5)
    assert values_of(LR, 5) != values_of(LR, 5, seed=1)
    # Of saltray 0.1, whose searches are resumed.
    assert [values["optim.lr"] for values in values_of({"optim.lr": loguniform(1e-4, 1e-1)}, 4)] == [
        0.0005821,
        0.0416,
        0.002973,
        0.0002125,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_trials_cover_the_range_evenly(seed: int) -> None:
    rates = sorted(float(values["optim.lr"]) for values in values_of(LR, 12, seed))
    assert rates[0] >= 1e-5
    assert rates[-1] <= 1e-2
    logs = [math.log10(1e-5), *map(math.log10, rates), math.log10(1e-2)]
    # Independent draws nearly always leave a gap of a decade.
    assert max(b - a for a, b in pairwise(logs)) < 0.6


def test_trials_cover_two_fields_and_a_list() -> None:
    space: Space = {**LR, "optim.weight_decay": uniform(0, 1), "train.batch_size": choice([8, 16])}
    drawn = values_of(space, 64)
    quarters = Counter((values["optim.lr"] > 3.16e-4, values["optim.weight_decay"] > 0.5) for values in drawn)  # type: ignore[operator]
    assert len(quarters) == 4
    assert min(quarters.values()) >= 12
    assert Counter(values["train.batch_size"] for values in drawn)[8] in range(28, 37)


def test_lists_alone_are_a_grid_in_an_order_of_the_seed() -> None:
    space: Space = {"train.batch_size": choice([8, 16]), "optim.lr": choice([0.1, 0.2, 0.3])}
    drawn = values_of(space, 6)
    assert len({tuple(values.items()) for values in drawn}) == 6
    assert draw_values(space, 0, 6) is None
    assert values_of(space, 6, seed=1) != drawn
    assert sorted(map(str, values_of(space, 6, seed=1))) == sorted(map(str, drawn))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_no_value_leaves_its_range(share: float) -> None:
    for values in (loguniform(1.23456e-5, 6.54321e-2), uniform(-1.23456, 0.98765)):
        assert values.low <= value_at(values, share) <= values.high
    assert value_at(Choice((1, 2, 3)), share) in (1, 2, 3)


def test_values_have_four_digits() -> None:
    assert value_at(loguniform(1e-4, 1), 1 / 3) == 0.002154
    assert value_at(uniform(0, 1), 1 / 3) == 0.3333
    assert [value_at(choice(list("abcd")), share) for share in (0, 0.25, 0.99, 1)] == ["a", "b", "d", "d"]


def test_a_value_near_the_end_of_its_range_is_recognised() -> None:
    values = loguniform(1e-4, 1)
    assert [end_near(values, value) for value in (1.2e-4, 1e-2, 0.9)] == ["lower", None, "upper"]
    assert [end_near(uniform(0, 1), value) for value in (0.04, 0.06, 0.94, 0.96)] == ["lower", None, None, "upper"]
    assert end_near(Range(0, 1, log=False), 0.01) == "lower"


def test_a_grid_has_a_limit() -> None:
    values = choice([number / 1000 for number in range(101)])
    space = {f"augment.{name}": values for name in ("scale", "shift", "contrast")}
    with pytest.raises(ConfigError, match="search.space is a grid of 1030301 combinations, more than 1,000,000"):
        check_space(space, CONFIG)


def test_a_large_grid_has_the_order_of_its_permutation() -> None:
    space = {"train.batch_size": choice([4, 8, 16]), "augment.flip": choice([0.0, 0.5]), "train.seed": choice([1, 2])}
    fields = sorted(space)
    grid = list(itertools.product(*(space[field].values for field in fields)))
    order = np.random.default_rng(5).permutation(len(grid))
    assert [draw_values(space, 5, index) for index in range(13)] == [
        *(dict(zip(fields, grid[place], strict=True)) for place in order),
        None,
    ]
