"""Recipes: functions that return a configuration for some tiles.

Each has a version, which rises with any change of its settings; name and version are in the manifests of what was made
by it. Other settings are a matter of `dataclasses.replace`:

    config = saltray.recipes.best(data="tiles", store="s3://bucket/salt")
"""

from collections.abc import Callable

from saltray.config import (
    AugmentConfig,
    Config,
    FoldConfig,
    LateLossConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from saltray.errors import ConfigError
from saltray.wording import there_are

PLAIN_DECODER = ModelConfig(decoder_batchnorm=False, deep_supervision=False)
"""AlbuNet as published."""


def fast(*, data: str, store: str = Config.store, run: str = Config.run) -> Config:
    """A good score soon: the defaults, recorded by a name and a version.

    Of the decoder's optional parts and the losses, the defaults have what `tests/bench/settings.py` has shown to help:
    BatchNorm in the decoder and deep supervision raise the score of 800 TGS tiles held out by 0.064 (95 % interval
    0.047 to 0.082), after ten epochs of a thin network.
    """
    return Config(data=data, store=store, run=run, recipe="fast-2")


def best(*, data: str, store: str = Config.store, run: str = Config.run) -> Config:
    """A better score for several times the time.

    The network of `fast`; the Lovasz hinge after the cross-entropy; cosine cycles, of which the last three, all of that
    loss, enter the ensemble.

    Where the data set has test tiles, a second run may train on them, too, with the labels of the first. Each fold
    takes those of its own models there, so its score stays one of tiles that no model of it has seen:

        saltray train --recipe best --data DATA --store STORE --run one
        saltray train --recipe best --data DATA --store STORE --run two --pseudo-labels.ensemble STORE/ensembles/one

    A tile of the test part that is also a training tile counts as both: its label is by models that have not seen it
    where the fold holds it out, so nothing of its mask is told.
    """
    return Config(
        data=data,
        store=store,
        run=run,
        recipe="best-2",
        loss=LossConfig(bce=1, dice=1),
        late_loss=LateLossConfig(after=100, lovasz_elu=1),
        optim=OptimConfig(schedule="cycles", cycles=5),
        train=TrainConfig(epochs=250, snapshots=3),
    )


def blog(*, data: str, store: str = Config.store, run: str = Config.run) -> Config:
    """The 2018 script, without its faults: the folds are stratified, and no weights are chosen by the score reported.

    The script started from torchvision's weights: `--model.weights IMAGENET1K_V1`, or a file of them.
    """
    return Config(
        data=data,
        store=store,
        run=run,
        recipe="blog-1",
        model=PLAIN_DECODER,
        folds=FoldConfig(scheme="blog"),
        optim=OptimConfig(
            optimizer="adam", lr=1e-3, weight_decay=0, schedule="constant", warmup_epochs=0, clip_norm=0, ema_decay=0
        ),
        augment=AugmentConfig(flip=0, rotate=0, scale=0, shift=0, brightness=0, contrast=0),
        loss=LossConfig(bce=1, dice=0),
        train=TrainConfig(epochs=500, batch_size=8, input_size=256, resize=2, precision="fp32"),
    )


RECIPES: dict[str, Callable[..., Config]] = {"blog": blog, "fast": fast, "best": best}
"""Recipe by name."""


def recipe_settings(name: str) -> Config:
    """The settings of a recipe by its name, or by its name and version as a manifest has it; without data.

    Raises:
        ConfigError: there is no such recipe, or this saltray has another version of it.
    """
    plain = name.partition("-")[0]
    if plain not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; {there_are(name, list(RECIPES), '')}")
    settings = RECIPES[plain](data="-")
    if name not in (plain, settings.recipe):
        raise ConfigError(
            f"there is no recipe {name!r}: this saltray has {settings.recipe}; use {plain}, or leave the recipe out "
            "where all settings are given"
        )
    return settings
