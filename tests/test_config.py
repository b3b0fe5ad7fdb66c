"""Configurations: their checks, their way through JSON, and what makes two runs the same."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from samples import FIRST_CONFIG, STORED_CONFIG

from saltray.config import (
    AugmentConfig,
    Choice,
    ClusterConfig,
    Config,
    FoldConfig,
    LateLossConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    PseudoLabelConfig,
    Range,
    SearchConfig,
    StoredConfig,
    TrainConfig,
    check_name,
    choice,
    loguniform,
    uniform,
    value_text,
)
from saltray.errors import ConfigError
from saltray.records import RecordError, digest, from_record, to_record

CYCLES = OptimConfig(schedule="cycles", cycles=3)


def refusal(make: Any) -> str:
    """What an impossible value is told, which is one line."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FoldConfig(count=1), "folds.count is 1"),
        (lambda: FoldConfig(seed=-1), "folds.seed is -1"),
        (lambda: ModelConfig(num_filters=0), "model.num_filters is 0"),
        (lambda: ModelConfig(encoder_width=0), "model.encoder_width is 0"),
        (lambda: ModelConfig(in_channels=2), "model.in_channels is 2; use 1 (grey) or 3 (RGB)"),
        (
            lambda: Config(data="d", model=ModelConfig(encoder="vgg16")),
            "model.encoder is vgg16, but albunet takes one of resnet34, resnet18, resnet50",
        ),
        (
            lambda: Config(data="d", model=ModelConfig(architecture="ternausnet", encoder="resnet18")),
            "model.encoder is resnet18, but ternausnet takes one of vgg11, vgg11_bn, vgg16, vgg16_bn",
        ),
        (
            lambda: Config(data="d", model=ModelConfig(architecture="unet", encoder="resnet18")),
            "model.encoder is resnet18, but unet has an encoder of its own; leave it unset",
        ),
        (lambda: OptimConfig(lr=0), "optim.lr is 0"),
        (lambda: OptimConfig(lr=math.nan), "optim.lr is nan"),
        (lambda: OptimConfig(weight_decay=-1.0), "optim.weight_decay is -1.0"),
        (lambda: OptimConfig(warmup_epochs=math.inf), "optim.warmup_epochs is inf"),
        (lambda: OptimConfig(clip_norm=-1.0), "optim.clip_norm is -1.0"),
        (lambda: OptimConfig(ema_decay=1.0), "optim.ema_decay is 1.0"),
        (lambda: AugmentConfig(flip=1.5), "augment.flip is 1.5"),
        (lambda: AugmentConfig(rotate=181.0), "augment.rotate is 181.0"),
        (lambda: AugmentConfig(scale=1), "augment.scale is 1"),
        (lambda: AugmentConfig(shift=-0.1), "augment.shift is -0.1"),
        (lambda: TrainConfig(epochs=0), "train.epochs is 0"),
        (lambda: TrainConfig(eval_every=0), "train.eval_every is 0"),
        (lambda: LossConfig(bce=-1), "loss.bce is -1"),
        (lambda: LossConfig(lovasz=math.nan), "loss.lovasz is nan"),
        (lambda: LossConfig(sides=-0.1), "loss.sides is -0.1"),
        (lambda: LossConfig(has_salt=math.inf), "loss.has_salt is inf"),
        (lambda: LossConfig(focal_gamma=-1), "loss.focal_gamma is -1"),
        (lambda: LossConfig(focal_gamma=101), "loss.focal_gamma is 101"),
        (lambda: LateLossConfig(focal=-1), "late_loss.focal is -1"),
        (lambda: LateLossConfig(after=0), "late_loss.after is 0; use 1 or more"),
        (lambda: LateLossConfig(ramp=-1), "late_loss.ramp is -1"),
        (
            lambda: Config(data="d", loss=LossConfig(bce=0, dice=0, sides=1, has_salt=1)),
            "all weights of loss are 0; give one of bce, dice, lovasz, lovasz_elu, focal a weight",
        ),
        (
            lambda: Config(data="d", late_loss=LateLossConfig(dice=1, lovasz_elu=1)),
            "late_loss.dice, late_loss.lovasz_elu without late_loss.after has no effect",
        ),
        (lambda: Config(data="d", late_loss=LateLossConfig(ramp=1)), "late_loss.ramp without late_loss.after"),
        (lambda: Config(data="d", late_loss=LateLossConfig(after=9)), "all weights of late_loss are 0"),
        (
            lambda: Config(data="d", late_loss=LateLossConfig(after=50, ramp=10, lovasz=1)),
            "late_loss.after 50 and late_loss.ramp 10 give epoch 61 the late weights first, but train.epochs is 60",
        ),
        (lambda: PseudoLabelConfig(ensemble="e", share=0), "pseudo_labels.share is 0; use a share above 0 and up to 1"),
        (lambda: PseudoLabelConfig(ensemble="e", share=1.5), "pseudo_labels.share is 1.5"),
        (lambda: PseudoLabelConfig(share=0.3), "pseudo_labels.share 0.3 without pseudo_labels.ensemble has no effect"),
        (lambda: TrainConfig(checkpoint_every=-1), "train.checkpoint_every is -1 s"),
        (lambda: TrainConfig(seed=-1), "train.seed is -1"),
        (lambda: TrainConfig(resize=0), "train.resize is 0"),
        (lambda: TrainConfig(snapshots=0), "train.snapshots is 0"),
        (lambda: OptimConfig(cycles=0), "optim.cycles is 0"),
        (lambda: OptimConfig(cycles=2), "optim.schedule is cosine and optim.cycles is 2"),
        (lambda: OptimConfig(schedule="cycles"), "optim.schedule is cycles and optim.cycles is 1"),
        (
            lambda: Config(data="d", optim=CYCLES, train=TrainConfig(epochs=2)),
            "optim.cycles is 3, but train.epochs is 2",
        ),
        (
            lambda: Config(data="d", optim=CYCLES, train=TrainConfig(snapshots=4)),
            "train.snapshots is 4, but the schedule has 3 cycles; use fewer, or --optim.cycles 4",
        ),
        (lambda: Config(data="d", train=TrainConfig(snapshots=2)), "the schedule has 1 cycle; use fewer, or"),
        (lambda: ClusterConfig(workers_per_fold=0), "workers_per_fold is 0"),
        (lambda: ClusterConfig(gpus_per_worker=2), "gpus_per_worker is 2"),
        (lambda: ClusterConfig(gpus_per_worker=0.5, workers_per_fold=2), "NCCL refuses"),
        (lambda: ClusterConfig(cpus_per_worker=0), "cpus_per_worker is 0"),
        (lambda: ClusterConfig(cache="disk"), "cluster.cache is 'disk'"),  # type: ignore[arg-type]
        (lambda: ClusterConfig(max_failures=-1), "max_failures is -1"),
        (lambda: Config(data=""), "data is empty"),
        (
            lambda: Config(data="d", train={"epochs": 3}),  # type: ignore[arg-type]
            'train is {"epochs": 3}; make it a saltray.config.TrainConfig(...)',
        ),
        (lambda: Config(data="d", late_loss=None), "late_loss is null"),  # type: ignore[arg-type]
        (lambda: choice("16,32"), 'a choice has the values "16,32"; give texts, numbers or booleans, such as [16,'),
        (lambda: choice(5), "a choice has the values 5"),  # type: ignore[arg-type]
        (lambda: choice([None]), "a choice has the values [null]"),  # type: ignore[list-item]
        (lambda: Choice([1, 2]), "a choice has the values [1, 2]"),  # type: ignore[arg-type]
        (lambda: Config(data="d", store=""), "store is empty"),
        (lambda: Config(data="d", run="../r1"), "'../r1' is not a plain name"),
        (lambda: Config(data="d", train=TrainConfig(input_size=101)), "a multiple of 64; use 128"),
        (
            lambda: Config(data="d", model=ModelConfig(architecture="unet"), train=TrainConfig(input_size=100)),
            "unet needs a multiple of 16; use 112",
        ),
        (
            lambda: Config(data="d", train=TrainConfig(batch_size=9), cluster=ClusterConfig(workers_per_fold=2)),
            "is not divisible by the number of workers, 2; use 10",
        ),
    ],
)
def test_an_impossible_value_is_named(make: Any, named: str) -> None:
    assert named in refusal(make)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "../s"}, "search '../s' is not a plain name"),
        ({"trials": 0}, "search.trials is 0"),
        ({"concurrent": 0}, "search.concurrent is 0"),
        ({"epochs": 0}, "search.epochs is 0"),
        ({"seed": -1}, "search.seed is -1"),
        ({"sampler": "bayes"}, "search.sampler is 'bayes'; it takes one of quasirandom, tpe"),
        ({"folds": ()}, "search.folds names no fold"),
        ({"folds": [0]}, "search.folds is [0]; make it a tuple such as (0, 1)"),
        ({"space": None}, 'search.space is null; make it a dictionary of fields, such as {"optim.lr": log'),
        ({"space": ["optim.lr=1,2"]}, 'search.space is ["optim.lr=1,2"]; make it a dictionary'),
        ({"folds": (0, 1, 0)}, "search.folds 0, 1, 0 lists one twice"),
    ],
)
def test_an_impossible_search_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(lambda: SearchConfig(**changes))


def test_json_round_trip() -> None:
    config = Config(data="d", folds=FoldConfig(count=3), optim=OptimConfig(lr=0.1))
    assert from_record(Config, json.loads(json.dumps(to_record(config)))) == config


def test_a_configuration_of_saltray_0_1_is_read_and_written_as_it_was() -> None:
    config = from_record(Config, STORED_CONFIG)
    assert to_record(config) == STORED_CONFIG
    assert (config.run, config.folds.count, config.optim.lr) == ("r2", 2, 0.002973)


def test_a_configuration_of_the_first_versions_is_what_it_was() -> None:
    config = from_record(StoredConfig, FIRST_CONFIG)  # type: ignore[arg-type]
    model = ModelConfig(architecture="ternausnet", encoder="vgg16", decoder_batchnorm=False, deep_supervision=False)
    assert config == Config(
        data="tiles", store="store", folds=FoldConfig(count=2), model=model, loss=LossConfig(bce=0.5, dice=1.0)
    )
    assert from_record(StoredConfig, STORED_CONFIG) == from_record(Config, STORED_CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"train": {"bce": 0.5}}, {"train": None}, {"model": None}, {"model": {"architecture": "vgg"}}, {"a": 1}]
)
def test_a_configuration_of_no_version_is_refused(changes: dict[str, Any]) -> None:
    for record in (FIRST_CONFIG | changes, STORED_CONFIG | changes, changes, [changes], None):
        with pytest.raises(RecordError):
            from_record(StoredConfig, record)  # type: ignore[arg-type]


def test_hardware_and_places_are_no_part_of_the_identity() -> None:
    here = Config(data="a", store="b", run="c")
    there = Config(data="x", store="y", run="z", cluster=ClusterConfig(workers_per_fold=2))
    other = dataclasses.replace(here, optim=OptimConfig(lr=0.5))
    assert digest(here.identity) == digest(there.identity) != digest(other.identity)
    sections = {"folds", "model", "optim", "augment", "loss", "late_loss", "train"}
    assert set(here.identity) == sections
    assert set(dataclasses.replace(here, pseudo_labels=PseudoLabelConfig(ensemble="e")).identity) == sections | {
        "pseudo_labels"
    }
    # A run is resumed under the same identity by every saltray that has the same settings, whatever its defaults.
    plain = dataclasses.replace(here, model=ModelConfig(decoder_batchnorm=False, deep_supervision=False))
    assert digest(plain.identity) == "52f7701c8de5af26537b4ee04ff68e59500dfd80f5b12f472939055cf1cdd6ad"


@pytest.mark.parametrize(("share", "tiles", "used"), [(0.5, 6, 3), (0.25, 6, 2), (1, 6, 6), (0.001, 6, 1)])
def test_a_share_of_the_test_tiles_is_one_or_more(share: float, tiles: int, used: int) -> None:
    assert PseudoLabelConfig(ensemble="e", share=share).count(tiles) == used
    assert PseudoLabelConfig().count(tiles) == 0


def test_cycles_are_as_equal_as_whole_epochs_allow() -> None:
    config = Config(data="d", optim=CYCLES, train=TrainConfig(epochs=10, snapshots=2))
    assert config.cycle_ends == (3, 6, 10)
    assert config.snapshots == (2, 3)
    assert (Config(data="d").cycle_ends, Config(data="d").snapshots) == ((60,), (1,))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b", "x" * 101, "a\n"])
def test_names_that_cannot_be_keys(name: str) -> None:
    with pytest.raises(ConfigError, match="run .* is not a plain name"):
        check_name(name, "run")


@pytest.mark.parametrize("name", ["r1", "R", "0", "a.b_c-d", "x" * 100])
def test_names_that_can(name: str) -> None:
    assert check_name(name, "run") == name


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: choice([]), "a choice has no values"),
        (lambda: choice([1, 2, 1]), "the choice 1,2,1 has 1 twice"),
        (lambda: uniform(2, 1), "the range lin:2:1 has its minimum above its maximum"),
        (lambda: uniform(1, 1), "the range lin:1:1 is empty"),
        (lambda: uniform(0, math.inf), "a range ends at inf, not a finite number"),
        (lambda: uniform(math.nan, 1), "a range ends at nan, not a finite number"),
        (lambda: uniform(False, 1), "a range ends at False, not a finite number"),
        (lambda: loguniform(0, 1), "takes the logarithm of 0; start above 0, or use lin:"),
        (lambda: loguniform(-1, 1), "takes the logarithm of -1"),
    ],
)
def test_impossible_values_to_search_are_named(make: Any, named: str) -> None:
    assert named in refusal(make)


def test_values_to_search_are_written_as_on_the_command_line() -> None:
    assert loguniform(1e-5, 1e-2) == Range(1e-5, 1e-2, log=True)
    assert choice(iter([16, 32])) == Choice((16, 32))
    values = (loguniform(1e-5, 1e-2), uniform(0, 0.2), choice([16, 32]), choice([True, "adam", 1e-4, 2.0]))
    assert [str(some) for some in values] == ["log:1e-05:0.01", "lin:0:0.2", "16,32", "true,adam,0.0001,2"]
    assert [value_text(value) for value in (1e-3, 16, False, "adam")] == ["0.001", "16", "false", "adam"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(architecture="resnet"), "model.architecture is 'resnet'; it takes one of albunet, "),  # type: ignore[arg-type]
        (lambda: ModelConfig(encoder=18), "model.encoder is 18; it takes text or null"),  # type: ignore[arg-type]
        (lambda: ModelConfig(scse=1), "model.scse is 1; it takes true or false"),  # type: ignore[arg-type]
        (lambda: OptimConfig(optimizer="sgd"), "optim.optimizer is 'sgd'; it takes one of adam, adamw"),  # type: ignore[arg-type]
        (lambda: FoldConfig(scheme="kfold"), "folds.scheme is 'kfold'; it takes one of coverage, blog"),  # type: ignore[arg-type]
        (lambda: TrainConfig(epochs="60"), "train.epochs is '60'; it takes an integer"),  # type: ignore[arg-type]
        (lambda: TrainConfig(epochs=1.5), "train.epochs is 1.5; it takes an integer"),  # type: ignore[arg-type]
        (lambda: Config(data=3), "data is 3; it takes text"),  # type: ignore[arg-type]
        (
            lambda: SearchConfig(space={"optim.lr": [1e-3, 1e-2]}),  # type: ignore[dict-item]
            "search.space optim.lr is [0.001, 0.01]; use loguniform(low, high), uniform(low, high) or choice(values)",
        ),
    ],
)
def test_a_script_that_gives_another_type_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_an_integer_may_stand_for_any_number() -> None:
    assert OptimConfig(clip_norm=1).clip_norm == 1


@pytest.mark.parametrize(
    ("section", "name", "most"),
    [
        (FoldConfig, "count", 999),
        (FoldConfig, "seed", 2**63 - 1),
        (ModelConfig, "num_filters", 1024),
        (ModelConfig, "encoder_width", 1024),
        (TrainConfig, "epochs", 10_000),
        (TrainConfig, "batch_size", 2**20),
        (TrainConfig, "input_size", 2**14),
        (TrainConfig, "resize", 16),
        (TrainConfig, "checkpoint_every", 10**9),
        (TrainConfig, "seed", 2**63 - 1),
        (ClusterConfig, "workers_per_fold", 10_000),
        (ClusterConfig, "max_failures", 10**6),
        (SearchConfig, "trials", 10_000),
        (SearchConfig, "epochs", 10_000),
    ],
)
def test_a_number_has_a_limit(section: Any, name: str, most: float) -> None:
    assert getattr(section(**{name: most}), name) == most
    with pytest.raises(ConfigError, match=rf"\.{name} is {most + 1}; use {most} or less"):
        section(**{name: most + 1})


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (TrainConfig, "checkpoint_every"),
        (LossConfig, "bce"),
        (LossConfig, "sides"),
        (LossConfig, "focal_gamma"),
        (LateLossConfig, "lovasz"),
    ],
)
def test_no_setting_is_infinite(section: Any, name: str) -> None:
    with pytest.raises(ConfigError):
        section(**{name: math.inf})  # a manifest could not be written


def test_the_last_epoch_may_be_the_first_of_the_late_loss() -> None:
    late = LateLossConfig(after=50, ramp=9, lovasz=1)
    assert Config(data="d", late_loss=late).late_loss.weights["lovasz"] == 1


def test_a_choice_of_too_many_values() -> None:
    with pytest.raises(ConfigError, match="a choice has 1001 values; use 1000 or fewer"):
        Choice(tuple(range(1001)))


@pytest.mark.parametrize(
    ("model", "backbone", "title"),
    [
        (ModelConfig(), "resnet34", "albunet"),
        (ModelConfig(encoder="resnet50", scse=True), "resnet50", "albunet (resnet50, scse)"),
        (ModelConfig(architecture="ternausnet", hypercolumn=True), "vgg11", "ternausnet (hypercolumn)"),
        (ModelConfig(architecture="unet"), None, "unet"),
        (ModelConfig(architecture="unet", decoder_batchnorm=False), None, "unet"),
        (ModelConfig(decoder_batchnorm=False, scse=True), "resnet34", "albunet (no decoder_batchnorm, scse)"),
    ],
)
def test_a_network_has_an_encoder_and_a_title(model: ModelConfig, backbone: str | None, title: str) -> None:
    assert (model.backbone, model.title) == (backbone, title)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hidden": 0.0}, "pretrain.hidden is 0.0; use a share between 0 and 1"),
        ({"hidden": 1.0}, "pretrain.hidden is 1.0; use a share between 0 and 1"),
        ({"patch": 0}, "pretrain.patch is 0; use 1 or more"),
        ({"patch": 1.5}, "pretrain.patch is 1.5; it takes"),
        ({"name": "../p"}, "pretraining '../p' is not a plain name"),
    ],
)
def test_impossible_settings_of_a_pretraining(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        PretrainConfig(**settings)
    assert PretrainConfig(name="a").identity == PretrainConfig(name="b").identity
