"""Recipes: configurations by name."""

import dataclasses

import pytest

from saltray import recipes
from saltray.config import Config, LossConfig, ModelConfig
from saltray.errors import ConfigError
from saltray.recipes import RECIPES, recipe_settings
from saltray.records import from_record, to_record


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_function_of_its_name_and_records_its_version(name: str) -> None:
    make = getattr(recipes, name)
    config = make(data="d", store="s3://b/x", run="r7")
    assert (config.data, config.store, config.run) == ("d", "s3://b/x", "r7")
    assert make(data="d") == Config(**vars(config) | {"store": Config.store, "run": Config.run})
    assert config.recipe is not None
    assert config.recipe.startswith(f"{name}-")
    assert from_record(Config, to_record(config)) == config
    # It says where the settings come from, and decides nothing.
    assert dataclasses.replace(config, recipe=None).identity == config.identity
    assert recipe_settings(name) == recipe_settings(config.recipe) == make(data="-")


def test_fast_is_the_default_and_has_the_parts_that_help() -> None:
    config = recipes.fast(data="d")
    assert config.model == recipes.best(data="d").model == ModelConfig(decoder_batchnorm=True, deep_supervision=True)
    assert dataclasses.replace(config, recipe=None) == Config(data="d")


def test_blog_is_the_script_of_2018() -> None:
    config = recipes.blog(data="d")
    assert (config.folds.count, config.folds.scheme) == (5, "blog")
    assert config.model == ModelConfig(decoder_batchnorm=False, deep_supervision=False)
    train, optim = config.train, config.optim
    assert (101 * train.resize, train.input_size, train.batch_size, train.epochs) == (202, 256, 8, 500)
    assert config.loss == LossConfig(bce=1, dice=0)
    assert (optim.optimizer, optim.lr, optim.schedule) == ("adam", 1e-3, "constant")
    assert (optim.warmup_epochs, optim.weight_decay, optim.clip_norm, optim.ema_decay) == (0, 0, 0, 0)
    assert not any(dataclasses.asdict(config.augment).values())


def test_the_snapshots_of_best_are_all_of_its_late_loss() -> None:
    config = recipes.best(data="d")
    assert len(config.snapshots) > 1
    assert config.cycle_ends[-1] == config.train.epochs
    assert config.late_loss.after == config.cycle_ends[config.snapshots[0] - 2]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bset", "there is no recipe 'bset'; there are blog, fast, best"),
        ("", "there is no recipe ''; there are"),
        ("best-999", "there is no recipe 'best-999': this saltray has best-[0-9]+; use best, or leave the recipe out"),
    ],
)
def test_an_unknown_recipe_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe_settings(name)


def test_a_configuration_of_a_recipe_is_made_by_its_function() -> None:
    with pytest.raises(ConfigError, match=r"recipe is 'best', .*; call one of saltray.recipes to make one"):
        Config(data="d", recipe="best")
