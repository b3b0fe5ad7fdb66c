"""Records that tests of several rooms need: metrics of an epoch, and what saltray 0.1 kept in a store."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3

from saltray.config import Config
from saltray.data.packed import DatasetManifest
from saltray.ensemble.manifest import EnsembleManifest, Member
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.records import from_record
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import (
    Evaluation,
    FoldScore,
    Interval,
    Price,
    Reliability,
    ReliabilityBin,
    Stratum,
)

DIGEST = "d" * 64


def metrics(
    epoch: int, score: float | None = 0.5, *, loss: float = 0.25, seconds: float = 10.0, speed: float = 812.3
) -> EpochMetrics:
    """An epoch, validated unless `score` is None."""
    valid_loss = None if score is None else loss
    return EpochMetrics(epoch, 1.0, 0.1, seconds, speed, score=score, iou=score, dice=score, valid_loss=valid_loss)


def dataset(digest: str = DIGEST) -> DatasetManifest:
    """The manifest of a packed data set."""
    return from_record(DatasetManifest, STORED_DATASET | {"digest": digest})


def ensemble_manifest(**settings: Any) -> EnsembleManifest:
    """Manifest of an ensemble of one fold, but for these fields."""
    fields: dict[str, Any] = {
        "name": "r1",
        "version": "v1",
        "members": (Member(fold=0, key="fold-0.safetensors", sha256=DIGEST, score=0.7),),
        "height": 101,
        "width": 101,
        "postprocess": Postprocess(),
        "score": 0.7,
        "score_at_threshold": 0.7,
        "baseline": 0.4,
        "run": "r1",
        "dataset": DIGEST,
        "config": Config(data="d"),
        "provenance": {},
    }
    return EnsembleManifest(**fields | settings)


EVALUATION = Evaluation(
    weights="weights after the last epoch, 3",
    score=0.7211,
    interval=Interval(low=0.7012, high=0.7398),
    folds=(FoldScore(fold=0, score=0.7123), FoldScore(fold=1, score=0.7299)),
    spread=0.0124,
    optimism=0.0135,
    strata=(
        Stratum(name="no salt", tiles=23, score=0.9, interval=Interval(low=0.85, high=0.95)),
        Stratum(name="0.1 to 9.7 % salt", tiles=37, score=0.3, interval=Interval(low=0.2, high=0.41)),
    ),
    reliability=Reliability(
        error=0.0123,
        largest=0.59,
        bins=(
            ReliabilityBin(pixels=3000, predicted=0.02, observed=0.01),
            ReliabilityBin(pixels=1000, predicted=0.55, observed=0.6),
        ),
    ),
    prices=(
        Price(models=1, tta=False, score=0.6912, seconds=0.0115),
        Price(models=1, tta=True, score=0.7012, seconds=0.023, gain=Interval(low=0.0061, high=0.0139)),
        Price(models=2, tta=False, score=None, seconds=0.023),
        Price(models=2, tta=True, score=None, seconds=0.046),
    ),
    device="CPU",
)
"""An invented evaluation of two folds."""


def publish_models(
    store: Store, config: Config, models: Sequence[FoldModel], dataset: DatasetManifest, **settings: Any
) -> EnsembleManifest:
    """Publish with invented scores, but for these arguments of `publish`."""
    arguments: dict[str, Any] = {
        "postprocess": Postprocess(threshold=0.44, min_area=12, blank_is_empty=True),
        "score": 0.7123,
        "score_at_threshold": 0.7321,
        "baseline": 0.39,
        "evaluation": EVALUATION,
    }
    return publish(store, config=config, models=models, dataset=dataset, **arguments | settings)


def foreign_object(store: Store, key: str) -> None:
    """An object that another program wrote."""
    if store.is_remote:
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        boto3.session.Session().client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"1")
    else:
        path = Path(store.uri, key)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")


def read_events(data: bytes) -> Iterator[tuple[Any, Any]]:
    """(event, value) of each summary in a TensorBoard file: records of length, checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    while data:
        length = int.from_bytes(data[:8], "little")
        for part, checksum in ((data[:8], data[8:12]), (data[12 : 12 + length], data[12 + length : 16 + length])):
            assert masked_crc32c(part) == int.from_bytes(checksum, "little")
        event = Event.FromString(data[12 : 12 + length])
        yield from ((event, value) for value in event.summary.value)
        data = data[16 + length :]


STORED_CONFIG: dict[str, Any] = {
    "augment": {"brightness": 0.1, "contrast": 0.1, "flip": 0.5, "rotate": 5.0, "scale": 0.1, "shift": 0.1},
    "cluster": {
        "cache": None,
        "compile": "off",
        "cpus_per_worker": None,
        "gpus_per_worker": None,
        "max_failures": 2,
        "workers_per_fold": 1,
    },
    "data": "tiles",
    "folds": {"count": 2, "scheme": "coverage", "seed": 0},
    "late_loss": {
        "after": None,
        "bce": 0.0,
        "dice": 0.0,
        "focal": 0.0,
        "lovasz": 0.0,
        "lovasz_elu": 0.0,
        "ramp": 0,
    },
    "loss": {
        "bce": 1.0,
        "dice": 1.0,
        "focal": 0.0,
        "focal_gamma": 2.0,
        "has_salt": 0.05,
        "lovasz": 0.0,
        "lovasz_elu": 0.0,
        "sides": 0.1,
    },
    "model": {
        "architecture": "albunet",
        "decoder_batchnorm": False,
        "deep_supervision": False,
        "encoder": None,
        "encoder_width": 8,
        "hypercolumn": False,
        "in_channels": 3,
        "is_deconv": True,
        "num_filters": 4,
        "scse": False,
        "weights": None,
    },
    "optim": {
        "clip_norm": 1.0,
        "cycles": 1,
        "ema_decay": 0.998,
        "lr": 0.002973,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "weight_decay": 0.0001,
    },
    "pseudo_labels": {"ensemble": None, "share": 0.5},
    "recipe": None,
    "run": "r2",
    "store": "store",
    "train": {
        "batch_size": 4,
        "checkpoint_every": 0.0,
        "epochs": 60,
        "eval_every": 1,
        "input_size": 128,
        "precision": "fp32",
        "resize": 1,
        "seed": 0,
        "snapshots": 1,
        "sync_batchnorm": True,
    },
}
FIRST_CONFIG: dict[str, Any] = {
    "augment": {"brightness": 0.1, "contrast": 0.1, "flip": 0.5, "rotate": 5.0, "scale": 0.1, "shift": 0.1},
    "cluster": {"cpus_per_worker": None, "gpus_per_worker": None, "max_failures": 2, "workers_per_fold": 1},
    "data": "tiles",
    "folds": {"count": 2, "scheme": "coverage", "seed": 0},
    "model": {
        "architecture": "ternausnet16",
        "encoder_width": 64,
        "is_deconv": True,
        "num_filters": 32,
        "weights": None,
    },
    "optim": {
        "clip_norm": 1.0,
        "ema_decay": 0.998,
        "lr": 0.001,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "weight_decay": 0.0001,
    },
    "run": "r1",
    "store": "store",
    "train": {
        "batch_size": 32,
        "bce": 0.5,
        "checkpoint_every": 60.0,
        "dice": 1.0,
        "epochs": 60,
        "eval_every": 1,
        "input_size": 128,
        "precision": "bf16",
        "seed": 0,
        "sync_batchnorm": True,
    },
}
"""As saltray stored it before there were weights of the loss, encoders by name, and parts of the decoder."""
STORED_EPOCH: dict[str, Any] = {
    "at": 1795712816.0320535,
    "dice": 0.0,
    "epoch": 1,
    "images_per_second": 9.504896672866385,
    "iou": 0.0,
    "loss": 1.4293769995371501,
    "lr": 0.0009045084971874737,
    "score": 0.4166666666666667,
    "seconds": 1.3385242880000305,
    "valid_loss": 1.4380815923213959,
}
STORED_DATASET: dict[str, Any] = {
    "digest": DIGEST,
    "format": 2,
    "height": 2,
    "index": "b" * 64,
    "name": "tiles-3452cbc184e0",
    "pixel_range": {"bits": 8, "maximum": 255},
    "parts": [{"key": "part-00000.parquet", "sha256": "a" * 64, "tiles": 4}],
    "source": "tiles",
    "statistics": {
        "black": 0,
        "duplicate_masks": 0,
        "empty": 2,
        "full": 1,
        "height": 2,
        "mean_coverage": 0.375,
        "median_coverage": None,
        "pixel_mean": 0.46,
        "pixel_std": 0.17,
        "tiny": 1,
        "train_tiles": 4,
        "vertical": 1,
        "width": 3,
    },
    "tiles": 4,
    "width": 3,
}
STORED_PROVENANCE: dict[str, Any] = {"commit": None, "python": "3.11.7", "ray": "2.60.0", "saltray": "0.1.0"}
