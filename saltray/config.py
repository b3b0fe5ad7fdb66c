"""What to train, how and on what: frozen, keyword-only dataclasses whose checks run when one is made.

The command line's flags are generated from these classes, and the line under a field is its help text. A recipe is a
function that returns a `Config`.
"""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from saltray.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def check_name(name: str, what: str) -> str:
    """Return `name` if it may stand in an object key.

    Raises:
        ConfigError: it is empty, longer than 100 characters, or has others than letters, digits, `.`, `_` and `-`.
    """
    _require(
        NAME.fullmatch(name) is not None,
        f"{what} {name!r} is not a plain name; use letters, digits, '.', '_' and '-', and start with a letter or digit",
    )
    return name


@dataclass(frozen=True, kw_only=True)
class FoldConfig:
    """How the tiles are split."""

    count: int = 5
    """Number of folds, 2 or more."""
    scheme: Literal["coverage", "blog"] = "coverage"
    """coverage: empty masks apart, the others in ten by salt coverage. blog: the 2018 script's ten equal-width bins."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        _require(self.count >= 2, f"folds.count is {self.count}; cross-validation needs 2 or more")
        _require(self.seed >= 0, f"folds.seed is {self.seed}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    architecture: Literal["albunet", "ternausnet11", "ternausnet16", "unet"] = "albunet"
    """albunet: U-Net on ResNet-34. ternausnet11 and ternausnet16: on VGG. unet: the plain one, with BatchNorm."""
    weights: str | None = None
    """Encoder weights: a path or URI of a torchvision state dict, or torchvision's name for them (IMAGENET1K_V1)."""
    num_filters: int = 32
    """Width of the decoder in channels; 32 is the published one."""
    encoder_width: int = 64
    """Channels of the encoder's first stage; 64 is the published one, and the only one that pre-trained weights fit."""
    is_deconv: bool = True
    """Upsample by transposed convolution; otherwise bilinear and a convolution."""

    def __post_init__(self) -> None:
        _require(self.num_filters >= 1, f"model.num_filters is {self.num_filters}; use 1 or more")
        _require(self.encoder_width >= 1, f"model.encoder_width is {self.encoder_width}; use 1 or more")
        _require(
            self.weights is None or self.encoder_width == 64,
            f"model.weights fit an encoder of width 64, not {self.encoder_width}; leave model.encoder_width at 64",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """adam: weight decay as an L2 term. adamw: decoupled."""
    lr: float = 1e-3
    """Peak learning rate, per step of the global batch."""
    weight_decay: float = 1e-4
    """Weight decay; biases and normalisation are exempt."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or a half cosine down to zero at the last step."""
    warmup_epochs: float = 1.0
    """Linear warm-up from zero, in epochs."""
    clip_norm: float = 1.0
    """Largest L2 norm of the whole gradient; 0 leaves it unclipped."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are scored and published (shorter at the start); 0 turns it off."""

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optim.lr is {self.lr}; use a positive number such as 1e-3")
        _require(0 <= self.weight_decay < math.inf, f"optim.weight_decay is {self.weight_decay}; use 0 or more")
        _require(0 <= self.warmup_epochs < math.inf, f"optim.warmup_epochs is {self.warmup_epochs}; use 0 or more")
        _require(0 <= self.clip_norm < math.inf, f"optim.clip_norm is {self.clip_norm}; use 0 or more")
        _require(0 <= self.ema_decay < 1, f"optim.ema_decay is {self.ema_decay}; use 0 <= decay < 1")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of a training tile, drawn anew for each tile and epoch."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    rotate: float = 5.0
    """Largest rotation, in degrees either way."""
    scale: float = 0.1
    """Largest relative change of size either way."""
    shift: float = 0.1
    """Largest shift along each axis, as a share of the input size."""
    brightness: float = 0.1
    """Largest shift of all pixels, as a share of the full range."""
    contrast: float = 0.1
    """Largest relative change of contrast either way."""

    def __post_init__(self) -> None:
        _require(0 <= self.flip <= 1, f"augment.flip is {self.flip}; a probability lies in 0..1")
        _require(0 <= self.rotate <= 180, f"augment.rotate is {self.rotate} degrees; use 0..180")
        for name in ("scale", "shift", "brightness", "contrast"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"augment.{name} is {value}; use 0 <= value < 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    epochs: int = 60
    """Passes over a fold's training tiles."""
    batch_size: int = 32
    """Tiles a step over all ranks of a fold together."""
    input_size: int = 128
    """Height and width that the network sees, in pixels; tiles are padded to it by reflection."""
    bce: float = 1.0
    """Weight of the binary cross-entropy."""
    dice: float = 1.0
    """Weight of the soft Dice loss."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward pass: bfloat16 autocast, or plain float32."""
    sync_batchnorm: bool = True
    """Normalise over the global batch, so that the number of ranks does not change the result."""
    eval_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    checkpoint_every: float = 60.0
    """Least time between two checkpoints, in seconds; 0 writes one each epoch."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "input_size", "eval_every"):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name} is {value}; use 1 or more")
        _require(self.bce >= 0 and self.dice >= 0, f"train.bce {self.bce} and train.dice {self.dice}: use 0 or more")
        _require(self.bce + self.dice > 0, "train.bce and train.dice are both 0; give one of them a weight")
        _require(self.checkpoint_every >= 0, f"train.checkpoint_every is {self.checkpoint_every} s; use 0 or more")
        _require(self.seed >= 0, f"train.seed is {self.seed}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What a fold runs on. None of it changes the numbers, only how fast they come."""

    workers_per_fold: int = 1
    """ProcessGroup of one fold's DistributedDataParallel job; must divide train.batch_size."""
    gpus_per_worker: float | None = None
    """GPUs a rank: 1, a fraction such as 0.2 for ranks that share one, 0 for the CPU. Unset: 1 where there are any."""
    cpus_per_worker: float | None = None
    """Logical CPUs a rank. Unset: 1, or a share of the machine that lets all folds run at once without GPUs."""
    max_failures: int = 2
    """Times that a fold may lose a worker and go on from its last checkpoint."""

    def __post_init__(self) -> None:
        _require(self.workers_per_fold >= 1, f"cluster.workers_per_fold is {self.workers_per_fold}; use 1 or more")
        gpus = self.gpus_per_worker
        _require(
            gpus is None or gpus == 1 or 0 <= gpus < 1,
            f"cluster.gpus_per_worker is {gpus}; a rank drives one GPU, so use 1, a fraction of one, or 0",
        )
        _require(
            not (gpus is not None and 0 < gpus < 1 and self.workers_per_fold > 1),
            f"cluster.gpus_per_worker {gpus} with {self.workers_per_fold} workers a fold could put two ranks of one "
            "fold on one GPU, which NCCL refuses; use whole GPUs, or one worker a fold",
        )
        cpus = self.cpus_per_worker
        _require(cpus is None or cpus > 0, f"cluster.cpus_per_worker is {cpus}; use a positive number")
        _require(self.max_failures >= 0, f"cluster.max_failures is {self.max_failures}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One cross-validated training run."""

    data: str
    """Tiles: a folder, a zip, s3://bucket/prefix, or a packed data set datasets/NAME of the store."""
    store: str = "saltray-store"
    """Where everything is kept: a folder or s3://bucket/prefix."""
    run: str = "r1"
    """Name of the run; the same name again finishes what is missing."""
    folds: FoldConfig = field(default_factory=FoldConfig)
    """The split."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The augmentation."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The hardware."""

    def __post_init__(self) -> None:
        _require(bool(self.data), "data is empty; name a folder, a zip or s3://bucket/prefix")
        _require(bool(self.store), "store is empty; name a folder or s3://bucket/prefix")
        check_name(self.run, "run")
        multiple = {"albunet": 64, "ternausnet11": 32, "ternausnet16": 32, "unet": 16}[self.model.architecture]
        _require(
            self.train.input_size % multiple == 0,
            f"train.input_size is {self.train.input_size}, but {self.model.architecture} needs a multiple of "
            f"{multiple}; use {-(-self.train.input_size // multiple) * multiple}",
        )
        ranks = self.cluster.workers_per_fold
        _require(
            self.train.batch_size % ranks == 0,
            f"train.batch_size {self.train.batch_size} does not divide among {ranks} workers; "
            f"use {-(-self.train.batch_size // ranks) * ranks}",
        )

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the numbers of a run: everything but where it is kept and what it runs on."""
        record = to_dict(self)
        for name in ("data", "store", "run", "cluster"):
            del record[name]
        return record


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, by field name."""
    return dataclasses.asdict(config)


def from_dict(record: dict[str, Any]) -> Config:
    """The inverse of `to_dict`.

    Raises:
        ConfigError: a field is unknown, missing or has an impossible value.
    """
    parts = {
        "folds": FoldConfig,
        "model": ModelConfig,
        "optim": OptimConfig,
        "augment": AugmentConfig,
        "train": TrainConfig,
        "cluster": ClusterConfig,
    }
    try:
        return Config(**{name: parts[name](**value) if name in parts else value for name, value in record.items()})
    except TypeError as error:
        raise ConfigError(f"not a saltray configuration: {error}; was it written by another version?") from error


def digest(record: dict[str, Any]) -> str:
    """SHA-256, in hex, of a record of plain JSON values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
