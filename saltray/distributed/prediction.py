"""`saltray predict`: any number of tiles through an ensemble, streamed by Ray Data.

Names go in, one row a tile comes out; at no time is more than a few batches of pixels in memory.
"""

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from saltray.data.raw import list_images, read_image
from saltray.data.rle import decode_rle, encode_rle
from saltray.data.source import Source
from saltray.distributed.admission import Node
from saltray.distributed.console import console
from saltray.distributed.runtime import joins_cluster, nodes_possible, nodes_present, ray_cluster
from saltray.ensemble.load import Ensemble
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, DataError, SaltrayError

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote."""

    tiles: int
    empty: int
    """Tiles predicted to hold no salt."""
    out: Path


def predict(
    *,
    ensemble: str,
    data: str,
    out: str | Path = "submission.csv",
    part: Literal["test", "train"] = "test",
    masks: str | Path | None = None,
    probabilities: str | Path | None = None,
    tta: bool = True,
    workers: int | None = None,
) -> Prediction:
    """Predict every tile of a data set.

    Args:
        ensemble: `<store>/ensembles/<name>[/latest|/v3]`.
        data: a folder, a zip or s3://bucket/prefix.
        out: the Kaggle submission, `id,rle_mask`, in the order of the ids.
        part: which images of the data set.
        masks: folder for one 8-bit PNG a tile, 255 where there is salt.
        probabilities: Parquet file with a row a tile: id, probability (float16, H x W in C order).
        tta: average over each tile and its mirror image.
        workers: model actors; one a GPU where there are any, else one a CPU.

    Raises:
        EnsembleError, DataError, ResourceError, ConfigError: see the message. Nothing is left at `out` then.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; use 1 or more")
    home = resolve(ensemble)
    manifest = read_manifest(home.uri)
    data = Source(data).uri  # absolute: Ray's workers stand in folders of their own
    names = list_images(data, part)
    with ray_cluster() as where:
        import ray

        cpus, ready = (_total(nodes_present(), kind) for kind in ("CPU", "GPU"))
        gpus = max(ready, _total(nodes_possible(), "GPU"))  # a cluster that grows from nothing starts a machine for us
        actors = min(workers or ready or (1 if gpus else max(cpus, 1)), -(-len(names) // BATCH))
        if gpus and actors > gpus:
            raise ConfigError(f"{actors} workers need a GPU each, but the cluster has at most {gpus}; lower --workers")
        device = "GPU" if gpus else "CPU"
        console.print(
            f"predicting {len(names)} tiles with {manifest.name} {manifest.version} on {where}: {actors} {device}"
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        shape = (manifest.height, manifest.width)
        # On one machine, what killed an actor would kill it again; and Ray warns of restarts in vain.
        restarts: dict[str, Any] = {} if joins_cluster() else {"max_restarts": 0}
        rows = (
            ray.data.from_items([{"name": name} for name in names], override_num_blocks=-(-len(names) // BATCH))
            .map_batches(_Decode(data, shape), batch_size=None, num_cpus=0.01, concurrency=2 * actors)
            .map_batches(
                _Predict,
                fn_constructor_args=(home.uri, "cuda" if gpus else "cpu", tta, probabilities is not None),
                batch_size=BATCH,
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_gpus=1 if gpus else 0,
                num_cpus=0.9,  # the rest is for those who decode
                **restarts,
            )
            .iter_batches(batch_size=BATCH, batch_format="numpy")
        )
        try:
            return _write(rows, shape, Path(out), _path(masks), _path(probabilities))
        except Exception as error:
            raise _mendable(error) from error


def _total(nodes: Iterable[Node], kind: str) -> int:
    return int(sum(node.get(kind, 0) for node in nodes))


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


class _Decode:
    """Names to pixels."""

    def __init__(self, data: str, shape: tuple[int, int]) -> None:
        self.data = data
        self.shape = shape

    def __call__(self, batch: Any) -> dict[str, NDArray[Any]]:
        images = [read_image(self.data, str(name)) for name in batch["name"]]
        for name, image in zip(batch["name"], images, strict=True):
            if image.shape != self.shape:
                raise DataError(
                    f"{name} has {image.shape[0]}x{image.shape[1]} pixels, the ensemble was trained on "
                    f"{self.shape[0]}x{self.shape[1]}; cut or pad the tiles to that size"
                )
        return {"id": np.array([Path(str(name)).stem for name in batch["name"]]), "image": np.stack(images)}


class _Predict:
    """Pixels to masks; one actor holds all fold models."""

    def __init__(self, ensemble: str, device: str, tta: bool, keep: bool) -> None:
        self.ensemble = Ensemble.load(ensemble, device=device)
        self.tta = tta
        self.keep = keep

    def __call__(self, batch: Any) -> dict[str, NDArray[Any]]:
        probabilities = self.ensemble.predict(batch["image"], tta=self.tta)
        salt = probabilities > self.ensemble.threshold
        out = {"id": batch["id"], "rle": np.array([encode_rle(mask) for mask in salt], dtype=object)}
        if self.keep:
            out["probability"] = probabilities.astype(np.float16)
        return out


def _write(
    batches: Iterable[Any],
    shape: tuple[int, int],
    out: Path,
    masks: Path | None,
    probabilities: Path | None,
) -> Prediction:
    """Write what comes in, batch by batch; the files get their names only when they are whole."""
    tiles = empty = 0
    with ExitStack() as stack:
        text = stack.enter_context(stack.enter_context(_whole(out)).open("w", newline=""))
        submission = csv.writer(text, lineterminator="\n")
        submission.writerow(["id", "rle_mask"])
        table = None
        if probabilities is not None:
            schema = pa.schema([("id", pa.string()), ("probability", pa.binary())])
            table = stack.enter_context(pq.ParquetWriter(stack.enter_context(_whole(probabilities)), schema))
        if masks is not None:
            with _refusal_explained(masks):
                masks.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            submission.writerows(zip(batch["id"], batch["rle"], strict=True))
            tiles += len(batch["id"])
            empty += int((batch["rle"] == "").sum())
            if masks is not None:
                for tile, rle in zip(batch["id"], batch["rle"], strict=True):
                    with _whole(masks / f"{tile}.png") as path:
                        Image.fromarray(decode_rle(rle, *shape) * np.uint8(255)).save(path, format="PNG")
            if table is not None:
                rows = [row.tobytes() for row in batch["probability"]]
                table.write_table(pa.table({"id": batch["id"].tolist(), "probability": rows}, schema=schema))
    return Prediction(tiles, empty, out)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        ConfigError: the folder cannot be written.
    """
    with _refusal_explained(path):
        if path.is_dir():
            raise ConfigError(f"cannot write {path}: it is a folder; name a file in it")
        draft = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _refusal_explained(path: Path) -> Iterator[None]:
    """Say which output cannot be written where the body finds that."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place for it") from error


def _mendable(error: BaseException) -> BaseException:
    """The SaltrayError at the bottom of what Ray wrapped around it, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SaltrayError):
            return seen if not hasattr(seen, "cause") else seen.cause
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
