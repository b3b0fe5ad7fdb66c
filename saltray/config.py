"""Every setting, once: frozen, keyword-only dataclasses whose checks run when one is made.

Flags, TOML files, search spaces and manifests follow from these classes (see `records`); the line under a field is its
help text. A recipe is a function that returns a `Config`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from saltray.errors import ConfigError
from saltray.records import MAX_EPOCHS, MAX_FOLDS, fits, meant_choice, own_field_types, to_record, type_text
from saltray.wording import excerpt

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RECIPE = re.compile(r"[a-z]{1,30}-[0-9]{1,9}")
"""Name and version of a recipe."""
NO_DATA = "-"
"""The data of settings that are of no run yet, such as a recipe's."""
MULTIPLES = {"albunet": 64, "ternausnet": 32, "unet": 16}
"""Of how many pixels the input of each network must be a multiple."""
ENCODERS = {
    "albunet": ("resnet34", "resnet18", "resnet50"),
    "ternausnet": ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn"),
    "unet": (),
}
"""The encoders that each network can have, its own first."""
Compile = Literal["off", "default", "graphs"]
"""What torch.compile does with the passes of the network; not measured on a GPU yet, so it is off by default."""
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
"""A name in a stored record; see `check_name`."""

# Beyond these a number is a slip or a damaged record, and what it sizes would never end or not fit any memory.
MAX_WIDTH = 1024
MAX_BATCH = 2**20
MAX_INPUT = 2**14
MAX_RESIZE = 16
MAX_SEED = 2**63 - 1
MAX_TRIALS = 10_000
MAX_CHOICES = 1000


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _between(name: str, value: float, low: float, high: float) -> None:
    _require(not value < low, f"{name} is {value}; use {low:g} or more")
    _require(value <= high, f"{name} is {value}; use {high} or less")


def _check_weight(name: str, value: float) -> None:
    _require(0 <= value < math.inf, f"{name} is {value}; use 0 or a positive number such as 1")


def _check_types(settings: Any, section: str) -> None:
    """Refuse values of another type than their field's, which only a script can give."""
    for item in fields(settings):
        value, part = getattr(settings, item.name), item.default_factory
        # A part that is a dictionary would fail only where it is used.
        if isinstance(part, type) and is_dataclass(part):
            _require(
                isinstance(value, part),
                f"{item.name} is {excerpt(value)}; make it a saltray.config.{part.__name__}(...)",
            )
    for name, kind in own_field_types(cast("Any", type(settings))).items():
        value = getattr(settings, name)
        _require(
            fits(kind, value), f"{section}{name} is {value!r}; it takes {type_text(kind)}{meant_choice(kind, value)}"
        )


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
    """The stratified split into folds."""

    count: int = 5
    """Number of folds, 2 or more."""
    scheme: Literal["coverage", "blog"] = "coverage"
    """coverage: empty masks apart, the others in ten by salt coverage. blog: the 2018 script's ten equal-width bins."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        _check_types(self, "folds.")
        _require(self.count >= 2, f"folds.count is {self.count}; cross-validation needs 2 or more")
        _between("folds.count", self.count, 2, MAX_FOLDS)
        _between("folds.seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    architecture: Literal["albunet", "ternausnet", "unet"] = "albunet"
    """albunet: U-Net on a ResNet. ternausnet: U-Net on a VGG. unet: the plain one, with BatchNorm."""
    encoder: str | None = None
    """albunet: resnet18, resnet34 (unset: this) or resnet50. ternausnet: vgg11 (this), vgg11_bn, vgg16 or vgg16_bn."""
    weights: str | None = None
    """Path or URI of a torchvision encoder, a whole network or STORE/ensembles/NAME; or torchvision's IMAGENET1K_V1."""
    num_filters: int = 32
    """Width of the decoder in channels; 32 is the published one."""
    encoder_width: int = 64
    """Channels of the encoder's first stage; 64 is the published one and what torchvision's weights fit."""
    in_channels: int = 3
    """1: a grey tile goes in as one channel. 3: as three equal ones, as published."""
    is_deconv: bool = True
    """Upsample by transposed convolution; otherwise bilinear and a convolution."""
    decoder_batchnorm: bool = True
    """BatchNorm in the decoder of albunet or ternausnet, which were published without; unet always has it."""
    scse: bool = False
    """Spatial and channel squeeze-and-excitation after each block of the decoder (Roy et al., 2018)."""
    hypercolumn: bool = False
    """All stages of the decoder, upsampled, as input of the last convolution (Hariharan et al., 2015)."""
    deep_supervision: bool = True
    """Train scores of each stage of the decoder too, and whether a tile has any salt."""

    def __post_init__(self) -> None:
        _check_types(self, "model.")
        _between("model.num_filters", self.num_filters, 1, MAX_WIDTH)
        _between("model.encoder_width", self.encoder_width, 1, MAX_WIDTH)
        _require(self.in_channels in (1, 3), f"model.in_channels is {self.in_channels}; use 1 (grey) or 3 (RGB)")

    def check_fit(self) -> None:
        """Refuse an encoder that the architecture cannot have.

        Raises:
            ConfigError: there is one.
        """
        known = ENCODERS[self.architecture]
        _require(
            self.encoder is None or self.encoder in known,
            f"model.encoder is {self.encoder}, but {self.architecture} "
            + (f"takes one of {', '.join(known)}" if known else "has an encoder of its own; leave it unset"),
        )

    @property
    def backbone(self) -> str | None:
        """The encoder by torchvision's name; None for unet."""
        return self.encoder or next(iter(ENCODERS[self.architecture]), None)

    @property
    def title(self) -> str:
        """The architecture, and in brackets what is not as by default: `albunet (resnet18, scse)`."""
        parts = ("decoder_batchnorm", "scse", "hypercolumn", "deep_supervision")[self.architecture == "unet" :]
        other = [part for part in parts if getattr(self, part) != getattr(ModelConfig, part)]
        more = [*filter(None, [self.encoder]), *(part if getattr(self, part) else f"no {part}" for part in other)]
        return self.architecture + (f" ({', '.join(more)})" if more else "")

    def fitting_size(self, pixels: int) -> int:
        """The smallest input size of the network that is not below `pixels`."""
        multiple = MULTIPLES[self.architecture]
        return -(-pixels // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """adam: weight decay as an L2 term. adamw: decoupled."""
    lr: float = 1e-3
    """Peak learning rate, per step of the global batch."""
    weight_decay: float = 1e-4
    """Weight decay; biases and normalisation are exempt."""
    schedule: Literal["constant", "cosine", "cycles"] = "cosine"
    """Learning rate after the warm-up: constant, a half cosine down to zero at the last step, or several of them."""
    cycles: int = 1
    """With schedule cycles: how many times the learning rate falls to zero, restarting in between (SGDR)."""
    warmup_epochs: float = 1.0
    """Linear warm-up from zero, in epochs."""
    clip_norm: float = 1.0
    """Maximum L2 norm of the whole gradient; 0: no clipping."""
    ema_decay: float = 0.998
    """Decay per step of the moving average of the weights, which is scored and published; 0: no averaging."""

    def __post_init__(self) -> None:
        _check_types(self, "optim.")
        _between("optim.cycles", self.cycles, 1, MAX_EPOCHS)
        _require(
            (self.cycles > 1) == (self.schedule == "cycles"),
            f"optim.schedule is {self.schedule} and optim.cycles is {self.cycles}; use both --optim.schedule cycles "
            "and 2 cycles or more, or neither",
        )
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
    """Maximum rotation, in degrees either way."""
    scale: float = 0.1
    """Maximum relative change of size either way."""
    shift: float = 0.1
    """Maximum shift along each axis, as a share of the input size."""
    brightness: float = 0.1
    """Maximum shift of all pixels, as a share of the full range."""
    contrast: float = 0.1
    """Maximum relative change of contrast either way."""

    def __post_init__(self) -> None:
        _check_types(self, "augment.")
        _require(0 <= self.flip <= 1, f"augment.flip is {self.flip}; use a probability, 0..1")
        _require(0 <= self.rotate <= 180, f"augment.rotate is {self.rotate} degrees; use 0..180")
        for name in ("scale", "shift", "brightness", "contrast"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"augment.{name} is {value}; use 0 <= value < 1")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weights of the loss's terms; see `saltray.training.losses`."""

    bce: float = 0.0
    """Weight of the binary cross-entropy."""
    dice: float = 0.0
    """Weight of the soft Dice loss."""
    lovasz: float = 0.0
    """Weight of the Lovasz hinge, per tile (Berman et al., 2018)."""
    lovasz_elu: float = 0.0
    """Weight of the Lovasz hinge with ELU + 1 in place of ReLU."""
    focal: float = 0.0
    """Weight of the focal loss (Lin et al., 2017)."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by its name."""
        return {item.name: getattr(self, item.name) for item in fields(LossWeights)}


@dataclass(frozen=True, kw_only=True)
class LossConfig(LossWeights):
    """The training loss: a weighted sum of terms."""

    bce: float = 1.0
    """Weight of the binary cross-entropy."""
    dice: float = 1.0
    """Weight of the soft Dice loss."""
    focal_gamma: float = 2.0
    """Focal loss: the higher, the less the pixels count that are predicted well; 0: the binary cross-entropy."""
    sides: float = 0.1
    """With deep supervision: weight of the same loss of each side output, on the tiles with salt."""
    has_salt: float = 0.05
    """With deep supervision: weight of the binary cross-entropy of whether a tile has salt."""

    def __post_init__(self) -> None:
        _check_types(self, "loss.")
        for name in (*self.weights, "sides", "has_salt"):
            _check_weight(f"loss.{name}", getattr(self, name))
        _between("loss.focal_gamma", self.focal_gamma, 0, 100)


@dataclass(frozen=True, kw_only=True)
class LateLossConfig(LossWeights):
    """Other weights for the rest of the training, such as those of the Lovasz hinge after the cross-entropy's."""

    after: int | None = None
    """Epochs that are trained with the weights of `loss` before these. Unset: all of them."""
    ramp: int = 0
    """Epochs in between, over which the weights change linearly; 0: at once."""

    def __post_init__(self) -> None:
        _check_types(self, "late_loss.")
        for name, weight in self.weights.items():
            _check_weight(f"late_loss.{name}", weight)
        _between("late_loss.after", 1 if self.after is None else self.after, 1, MAX_EPOCHS)
        _between("late_loss.ramp", self.ramp, 0, MAX_EPOCHS)


def _check_losses(loss: LossConfig, late: LateLossConfig, epochs: int) -> None:
    """Refuse a loss without terms, and later weights that would have no effect."""
    names = ", ".join(loss.weights)
    _require(any(loss.weights.values()), f"all weights of loss are 0; give one of {names} a weight")
    if late.after is None:
        given = [f"late_loss.{name}" for name, value in (late.weights | {"ramp": late.ramp}).items() if value]
        _require(not given, f"{', '.join(given)} without late_loss.after has no effect; set that, in epochs")
        return
    _require(
        any(late.weights.values()),
        f"late_loss.after is {late.after}, but all weights of late_loss are 0; give one of {names} a weight",
    )
    first = late.after + late.ramp + 1
    _require(
        first <= epochs,
        f"late_loss.after {late.after} and late_loss.ramp {late.ramp} give epoch {first} the late weights first, but "
        f"train.epochs is {epochs}; lower the former, or train longer",
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    epochs: int = 60
    """Passes over a fold's training tiles."""
    batch_size: int = 32
    """Global batch: tiles per step over all ranks of a fold."""
    input_size: int = 128
    """Height and width that the network sees, in pixels; tiles are padded to it by reflection."""
    resize: int = 1
    """Factor by which tiles are enlarged before they are padded; predictions are reduced by it."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward pass: bfloat16 autocast (float16 on a GPU without it), or plain float32."""
    sync_batchnorm: bool = True
    """Normalise over the global batch, so that the number of ranks does not change the result."""
    eval_every: int = 1
    """Epochs between validations; the last epoch, of each cycle of the schedule, is always validated."""
    snapshots: int = 1
    """Models of a fold in the ensemble: the weights at the ends of the last so many cycles of the schedule."""
    checkpoint_every: float = 60.0
    """Minimum time between two checkpoints, in seconds; 0: one per epoch."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        _check_types(self, "train.")
        most = {"epochs": MAX_EPOCHS, "batch_size": MAX_BATCH, "input_size": MAX_INPUT, "eval_every": 10**9}
        most |= {"resize": MAX_RESIZE, "snapshots": MAX_EPOCHS}
        for name, high in most.items():
            _between(f"train.{name}", getattr(self, name), 1, high)
        _require(self.checkpoint_every >= 0, f"train.checkpoint_every is {self.checkpoint_every} s; use 0 or more")
        _between("train.checkpoint_every", self.checkpoint_every, 0, 10**9)
        _between("train.seed", self.seed, 0, MAX_SEED)


def _check_cycles(optim: OptimConfig, train: TrainConfig) -> None:
    _require(
        optim.cycles <= train.epochs,
        f"optim.cycles is {optim.cycles}, but train.epochs is {train.epochs}; a cycle takes an epoch or "
        "more, so lower optim.cycles, or raise train.epochs",
    )
    _require(
        train.snapshots <= optim.cycles,
        f"train.snapshots is {train.snapshots}, but the schedule has {optim.cycles} cycle{'s' * (optim.cycles > 1)}; "
        f"use fewer, or --optim.cycles {train.snapshots}",
    )


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """Test tiles that are trained on with the masks that an earlier ensemble predicts (Lee, 2013)."""

    ensemble: str | None = None
    """STORE/ensembles/NAME of the same tiles and split: each fold's own models label its test tiles. Unset: none."""
    share: float = 0.5
    """Share of the test tiles that is trained on: those of which the models are most certain."""

    def __post_init__(self) -> None:
        _check_types(self, "pseudo_labels.")
        share = self.share
        _require(0 < share <= 1, f"pseudo_labels.share is {share}; use a share above 0 and up to 1, such as 0.5")
        _require(
            self.ensemble is not None or share == PseudoLabelConfig.share,
            f"pseudo_labels.share {share} without pseudo_labels.ensemble has no effect; set that, or leave this out",
        )

    def count(self, tiles: int) -> int:
        """Of so many test tiles, those that are trained on."""
        return 0 if self.ensemble is None else max(1, round(self.share * tiles))


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The hardware of one fold. It changes the speed, not the results."""

    workers_per_fold: int = 1
    """Ranks of one fold's DistributedDataParallel job; must divide train.batch_size."""
    gpus_per_worker: float | None = None
    """GPUs per rank: 1, a fraction such as 0.2 to share one, 0 for the CPU. Unset: 1 where there are any."""
    cpus_per_worker: float | None = None
    """Logical CPUs per rank; without GPUs its threads too. Unset: 1 beside a GPU, else its share of the cores."""
    cache: Literal["device", "host"] | None = None
    """Where tiles are kept: on each rank's device, or in memory that the ranks of a node share. Unset: by size."""
    compile: Compile = "off"
    """Passes of the network: as they are (off), by torch.compile (default), or that with CUDA graphs (graphs)."""
    max_failures: int = 2
    """Times that a fold may lose a worker and resume from its last checkpoint."""

    def __post_init__(self) -> None:
        _check_types(self, "cluster.")
        _between("cluster.workers_per_fold", self.workers_per_fold, 1, 10_000)
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
        _require(cpus is None or 0 < cpus < 10**6, f"cluster.cpus_per_worker is {cpus}; use a positive number")
        _between("cluster.max_failures", self.max_failures, 0, 10**6)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One cross-validated training run."""

    data: str
    """Tiles: a folder, a zip, s3://bucket/prefix, or a packed data set datasets/NAME of the store."""
    store: str = "saltray-store"
    """Where everything is kept: a folder or s3://bucket/prefix."""
    run: str = "r1"
    """Name of the run; the same name again finishes what is missing."""
    recipe: str | None = None
    """Recipe of the settings that are not given: fast, best or blog. Unset: the defaults, which are those of fast."""
    folds: FoldConfig = field(default_factory=FoldConfig)
    """The split."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The augmentation."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    late_loss: LateLossConfig = field(default_factory=LateLossConfig)
    """The weights of the training loss later on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    """The test tiles that are trained on, too."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The hardware."""

    def __post_init__(self) -> None:
        _check_types(self, "")
        _require(bool(self.data), "data is empty; name a folder, a zip or s3://bucket/prefix")
        _require(bool(self.store), "store is empty; name a folder or s3://bucket/prefix")
        check_name(self.run, "run")
        _require(
            self.recipe is None or RECIPE.fullmatch(self.recipe) is not None,
            f"recipe is {self.recipe!r}, which records the name and version of a recipe that made a configuration; "
            "call one of saltray.recipes to make one",
        )
        _check_cycles(self.optim, self.train)
        self.model.check_fit()
        fitting = self.model.fitting_size(self.train.input_size)
        _require(
            self.train.input_size == fitting,
            f"train.input_size is {self.train.input_size}, but {self.model.architecture} needs a multiple of "
            f"{MULTIPLES[self.model.architecture]}; use {fitting}",
        )
        _check_losses(self.loss, self.late_loss, self.train.epochs)
        ranks = self.cluster.workers_per_fold
        _require(
            self.train.batch_size % ranks == 0,
            f"train.batch_size {self.train.batch_size} is not divisible by the number of workers, {ranks}; "
            f"use {-(-self.train.batch_size // ranks) * ranks}",
        )

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """Epochs after which a cycle of the schedule ends; the last epoch is one."""
        cycles, epochs = self.optim.cycles, self.train.epochs
        return tuple(epochs * number // cycles for number in range(1, cycles + 1))

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The cycles, from 1, whose ends enter the ensemble."""
        cycles = self.optim.cycles
        return tuple(range(cycles - self.train.snapshots + 1, cycles + 1))

    @property
    def can_be_extended(self) -> bool:
        """Whether more epochs leave the ones before as they are; a cosine is laid out for all of them."""
        return self.optim.schedule == "constant"

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the first: all but where it is kept and its hardware."""
        record: dict[str, Any] = to_record(self)
        for name in ("data", "store", "run", "recipe", "cluster"):
            del record[name]
        if self.pseudo_labels.ensemble is None:  # the identity of runs from before there were pseudo-labels
            del record["pseudo_labels"]
        return record


_UNTIL_OTHER_DEFAULTS = {"decoder_batchnorm": False, "deep_supervision": False}
"""What older records mean, which lack these settings: they were off until they became defaults."""


def _as_today(record: Any) -> Any:
    """Settings of any earlier version as this one stores them."""
    if not isinstance(record, dict):
        return record
    model, train = record.get("model"), record.get("train")
    if isinstance(model, dict):
        old = model.get("architecture")
        if "encoder" not in model and old in ("ternausnet11", "ternausnet16"):
            model = model | {"architecture": "ternausnet", "encoder": old.replace("ternausnet", "vgg")}
        record = record | {"model": _UNTIL_OTHER_DEFAULTS | model}
    if isinstance(train, dict) and "loss" not in record and {"bce", "dice"} <= train.keys():
        loss = {name: train[name] for name in ("bce", "dice")}
        record = record | {"loss": loss, "train": {name: train[name] for name in train if name not in loss}}
    return record


StoredConfig = Annotated[Config, BeforeValidator(_as_today)]
"""Settings in a stored record, of this version or an earlier one."""


@dataclass(frozen=True)
class Range:
    """Any number from `low` to `high`, uniform or, with `log`, log-uniform. As text: lin:LOW:HIGH or log:LOW:HIGH."""

    low: float
    high: float
    log: bool

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            number = isinstance(end, int | float) and not isinstance(end, bool)
            _require(number and math.isfinite(end), f"a range ends at {end!r}, not a finite number; use one like 1e-5")
        what = "is empty" if self.low == self.high else "has its minimum above its maximum"
        _require(self.low < self.high, f"the range {self} {what}; give LOW:HIGH with LOW below HIGH")
        _require(
            not self.log or self.low > 0,
            f"the range {self} takes the logarithm of {self.low:g}; start above 0, or use lin:",
        )

    def __str__(self) -> str:
        return f"{'log' if self.log else 'lin'}:{self.low:g}:{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few values. As text: A,B,C."""

    values: tuple[str | float | bool, ...]

    def __post_init__(self) -> None:
        _require(
            isinstance(self.values, tuple) and all(isinstance(value, str | float | int) for value in self.values),
            f"a choice has the values {excerpt(self.values)}; give texts, numbers or booleans, such as [16, 32, 64]",
        )
        _require(bool(self.values), "a choice has no values; give one or more, such as 16,32,64")
        count = len(self.values)
        _require(count <= MAX_CHOICES, f"a choice has {count} values; use {MAX_CHOICES} or fewer, or a range")
        twice = [value for at, value in enumerate(self.values) if value in self.values[:at]]
        _require(not twice, f"the choice {self} has {''.join(map(str, twice[:1]))} twice; give each value once")

    def __str__(self) -> str:
        return ",".join(map(value_text, self.values))


Space = Mapping[str, Range | Choice]
"""What a search varies: a field of the configuration by dotted name -> its possible values."""
Values = Mapping[str, str | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | bool]
"""What a trial tries: a field of the configuration by dotted name -> its value. Without int, 16 would be read back from
a store as 16.0."""


def value_text(value: float | str) -> str:
    """A setting's value as the command line takes it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def loguniform(low: float, high: float) -> Range:
    """Any number from `low` to `high`, each order of magnitude equally likely; for learning rates.

    Raises:
        ConfigError: low is 0 or less, or not below high.
    """
    return Range(low, high, log=True)


def uniform(low: float, high: float) -> Range:
    """Any number from `low` to `high`.

    Raises:
        ConfigError: low is not below high.
    """
    return Range(low, high, log=False)


def choice(values: Iterable[str | float | bool]) -> Choice:
    """One of these values. A space of choices alone is a grid: each combination is tried once.

    Raises:
        ConfigError: there are none, or one is given twice.
    """
    # A text would be taken for its letters.
    listed = isinstance(values, Iterable) and not isinstance(values, str)
    return Choice(tuple(values) if listed else cast("Any", values))


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A self-supervised pretraining: patches of each tile are hidden, and the network learns to fill them in."""

    name: str = "p1"
    """Name of the pretraining; its weights are in STORE/pretrained/NAME."""
    hidden: float = 0.6
    """Share of a tile's patches that are hidden, drawn anew for each tile and epoch."""
    patch: int = 16
    """Height and width of a patch, in pixels of the tile."""

    def __post_init__(self) -> None:
        _check_types(self, "pretrain.")
        check_name(self.name, "pretraining")
        _require(0 < self.hidden < 1, f"pretrain.hidden is {self.hidden}; use a share between 0 and 1, such as 0.6")
        _between("pretrain.patch", self.patch, 1, MAX_INPUT)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a resumed pretraining must share with the first."""
        return {"hidden": self.hidden, "patch": self.patch}


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A hyperparameter search. `trials` and `concurrent` may change when it is resumed; the rest may not."""

    name: str | None = None
    """Name of the search; its results are in STORE/searches/NAME. Unset: s1, for `saltray run` the name of the run."""
    trials: int = 16
    """Maximum number of trials."""
    space: Space = field(default_factory=lambda: {"optim.lr": loguniform(1e-5, 1e-2)})
    """FIELD=log:LOW:HIGH, FIELD=lin:LOW:HIGH or FIELD=A,B,C for each field; fields that are all lists make a grid."""
    folds: tuple[int, ...] = (0,)
    """Folds whose held-out tiles score a trial; the mean of several."""
    sampler: Literal["quasirandom", "tpe"] = "quasirandom"
    """quasirandom covers the space evenly; tpe (Optuna) learns from the trials so far."""
    prune: bool = True
    """Stop poor trials early, by ASHA (Li et al., 2018)."""
    concurrent: int | None = None
    """Trials at once; more than fit makes an autoscaling cluster grow. Unset: what fits now."""
    seed: int = 0
    """Seed of the values to try."""
    epochs: int | None = None
    """Length of a trial, in epochs; train.epochs unless given."""

    def __post_init__(self) -> None:
        _require(
            isinstance(self.space, Mapping),
            f"search.space is {excerpt(self.space)}; make it a dictionary of fields, such as "
            '{"optim.lr": loguniform(1e-5, 1e-2)}',
        )
        for name, values in self.space.items():
            _require(
                isinstance(values, Range | Choice),
                f"search.space {name} is {values!r}; use loguniform(low, high), uniform(low, high) or choice(values)",
            )
        _require(
            isinstance(self.folds, tuple), f"search.folds is {excerpt(self.folds)}; make it a tuple such as (0, 1)"
        )
        _check_types(self, "search.")
        if self.name is not None:
            check_name(self.name, "search")
        _between("search.trials", self.trials, 1, MAX_TRIALS)
        _require(
            self.concurrent is None or self.concurrent >= 1, f"search.concurrent is {self.concurrent}; use 1 or more"
        )
        _between("search.epochs", 1 if self.epochs is None else self.epochs, 1, MAX_EPOCHS)
        _between("search.seed", self.seed, 0, MAX_SEED)
        _require(bool(self.folds), "search.folds names no fold; name one or more, such as 0")
        folds = ", ".join(map(str, self.folds))
        _require(len(set(self.folds)) == len(self.folds), f"search.folds {folds} lists one twice; list each once")
