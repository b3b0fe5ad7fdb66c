"""`saltray demo`: the whole way on this machine, in a few minutes, on synthetic tiles."""

from pathlib import Path

import numpy as np

from saltray.config import AugmentConfig, Config, ModelConfig, OptimConfig, TrainConfig
from saltray.data.packing import load_tiles
from saltray.data.synthetic import synth
from saltray.distributed.console import console
from saltray.distributed.cross_validation import train
from saltray.distributed.prediction import predict
from saltray.distributed.run_records import OOF, TrainResult
from saltray.distributed.runtime import ray_cluster
from saltray.report.demo import draw_demo
from saltray.storage.names import open_store

SHOWN = 8


def recipe(data: str, store: str, run: str) -> Config:
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


def demo(folder: str | Path = "saltray-demo", *, picture: str | Path = "demo.png", tiles: int = 240) -> TrainResult:
    """Synthesise tiles, cross-validate, publish, predict the test tiles and draw some held-out ones.

    What is there already is not made again, so an interrupted demo goes on where it stopped.

    Args:
        folder: where the tiles, the store and the submission go.
        picture: the PNG to draw.
        tiles: synthetic training tiles.
    """
    home = Path(folder)
    data, store = home / f"tiles-{tiles}", home / "store"
    if not data.exists():
        synth(data, tiles=tiles, noise=0)  # as hard as in the field would take hours to learn
        console.print(f"wrote {tiles} synthetic tiles to {data}")
    with ray_cluster():
        result = train(recipe(str(data), str(store), f"demo-{tiles}"))
        done = predict(ensemble=result.ensemble, data=str(data), out=home / "submission.csv")
    console.print(f"wrote {done.out}: {done.tiles} test tiles, {done.empty} of them without salt")
    _draw(Path(picture), data, store, result)
    console.print(f"picture   {picture}")
    return result


def _draw(picture: Path, data: Path, store: Path, result: TrainResult) -> None:
    """Held-out tiles with salt, spread evenly from the worst predicted to the best."""
    tiles, _ = load_tiles(str(data), open_store(str(store)))
    assert tiles.masks is not None
    table = open_store(str(store)).get_table(f"runs/{result.run}/{OOF}")
    rows = [np.frombuffer(row, dtype=np.float16) for row in table["probability"].to_pylist()]
    probabilities = np.stack(rows).reshape(tiles.images.shape)
    truth, predicted = tiles.masks > 0, probabilities > result.threshold
    union = (truth | predicted).sum(axis=(1, 2))
    iou = (truth & predicted).sum(axis=(1, 2)) / np.maximum(union, 1)
    salty = np.flatnonzero(truth.mean(axis=(1, 2)) > 0.05)
    salty = salty if len(salty) else np.arange(len(tiles))
    order = salty[np.argsort(iou[salty])]
    shown = np.sort(order[np.linspace(0, len(order) - 1, SHOWN).astype(int)])
    draw_demo(
        picture,
        tiles.select(shown),
        probabilities[shown],
        result.threshold,
        f"Held-out tiles of five folds: score {result.score:.3f} (no salt at all: {result.floor:.3f})",
        captions=[f"fold {table['fold'][int(at)].as_py()} · IoU {iou[at]:.2f}" for at in shown],
    )
