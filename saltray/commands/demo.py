"""`saltray demo`: everything on this machine, in a few minutes, on synthetic tiles."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saltray.commands.predict import Prediction, predict
from saltray.commands.publish_run import TrainResult
from saltray.commands.synth import synth
from saltray.commands.train import train
from saltray.config import AugmentConfig, Config, ModelConfig, OptimConfig, TrainConfig
from saltray.data.packing import load_tiles
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.paths import check_kept
from saltray.progress import Observer, TilesWritten, log_event
from saltray.report.examples import draw_demo
from saltray.runs.layout import OOF, run_folder
from saltray.storage.outputs import output_file
from saltray.storage.uri import local_path, open_store

SHOWN = 8
"""Tiles in the picture."""
LEAST_COVERAGE = 0.05
"""Share of salt that makes a tile worth showing."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo gave."""

    train: TrainResult
    prediction: Prediction
    """Of the test tiles."""
    picture: str
    """Its path or URI, as given."""


def demo_config(data: str, store: str, run: str) -> Config:
    """A thin AlbuNet that learns the synthetic tiles in a minute on two CPU cores."""
    return Config(
        data=data,
        store=store,
        run=run,
        model=ModelConfig(num_filters=4, encoder_width=8),
        optim=OptimConfig(lr=3e-3, ema_decay=0.9, warmup_epochs=0.5),
        augment=AugmentConfig(rotate=0, scale=0, shift=0.05),
        train=TrainConfig(epochs=8, batch_size=8, precision="fp32", seed=1),
    )


def demo(
    folder: str | os.PathLike[str] = "saltray-demo",
    *,
    picture: str | os.PathLike[str] = "demo.png",
    tiles: int = 240,
    observer: Observer = log_event,
) -> DemoResult:
    """Synthesise tiles, cross-validate, publish, predict the test tiles and draw some held-out ones.

    What is there already is not made again, so an interrupted demo resumes.

    Args:
        folder: where the tiles, the store and the submission go; of this machine.
        picture: the PNG to draw, a path or s3://bucket/key.
        tiles: synthetic training tiles.
        observer: receives the events.

    Raises:
        ConfigError: the folder is not on this machine, or the picture cannot be written.
        SaltrayError: as `train` and `predict`.
    """
    for what, uri in (("the folder", folder), ("the picture", picture)):
        check_kept(what, os.fspath(uri))
    home = local_path(folder)
    data, store = home / f"tiles-{tiles}", home / "store"
    with output_file(picture) as image:  # first of all, a picture that cannot be written is refused
        if not data.exists():
            synth(data, tiles=tiles, noise=0)  # tiles as hard as in the field would take hours to learn
            observer(TilesWritten(tiles, str(data)))
        with ray_cluster(observer=observer):
            result = train(demo_config(str(data), str(store), f"demo-{tiles}"), observer=observer)
            prediction = predict(
                ensemble=result.ensemble, data=str(data), out=home / "submission.csv", observer=observer
            )
        _draw(image.path, data, store, result)
    return DemoResult(result, prediction, os.fspath(picture))


def _draw(picture: Path, data: Path, store: Path, result: TrainResult) -> None:
    """Held-out tiles with salt, spread evenly from the worst predicted to the best."""
    root = open_store(str(store))
    tiles, _ = load_tiles(str(data), root)
    table = root.get_table(f"{run_folder(result.run)}/{OOF}")
    rows = [np.frombuffer(row, dtype=np.float16) for row in table["probability"].to_pylist()]
    probabilities = np.stack(rows).reshape(tiles.images.shape)
    truth, predicted = tiles.masks > 0, result.postprocess.apply(probabilities, tiles.images)
    union = (truth | predicted).sum(axis=(1, 2))
    iou = (truth & predicted).sum(axis=(1, 2)) / np.maximum(union, 1)
    candidates = np.flatnonzero(truth.mean(axis=(1, 2)) > LEAST_COVERAGE)
    candidates = candidates if len(candidates) else np.arange(len(tiles))
    order = candidates[np.argsort(iou[candidates])]
    shown = np.sort(order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int)])
    draw_demo(
        picture,
        tiles.select(shown),
        predicted[shown],
        f"Held-out tiles of five folds: score {result.evaluation.score:.3f} (no salt at all: {result.baseline:.3f})",
        captions=[f"fold {table['fold'][int(at)].as_py()} · IoU {iou[at]:.2f}" for at in shown],
        postprocess=str(result.postprocess),
    )
