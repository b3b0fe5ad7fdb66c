"""`saltray predict`: any number of tiles through an ensemble."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from saltray.data.raw import list_images
from saltray.data.rle import decode_rle
from saltray.data.source import Source
from saltray.distributed.cluster import ray_cluster
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError
from saltray.progress import Observer, PredictionPlanned, log_event

if TYPE_CHECKING:
    from saltray.distributed.prediction import Batch


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
    observer: Observer = log_event,
) -> Prediction:
    """Predict every tile of a data set.

    Args:
        ensemble: `<store>/ensembles/<name>[/latest|/v3]`.
        data: a folder, a zip or s3://bucket/prefix.
        out: the Kaggle submission, `id,rle_mask`, in the order of the ids.
        part: which images of the data set.
        masks: folder for one 8-bit PNG per tile, 255 where there is salt.
        probabilities: Parquet file with a row per tile: id, probability (float16, H x W in C order).
        tta: average over each tile and its mirror image.
        workers: model actors; one per GPU where there are any, else one per CPU.
        observer: receives the events.

    Raises:
        EnsembleError, DataError, ResourceError, ConfigError: see the message. Nothing is left at `out` then.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; use 1 or more")
    home = resolve(ensemble)
    manifest = read_manifest(home)
    data = Source(data).uri  # absolute: Ray's workers have working directories of their own
    names = list_images(data, part)
    shape = (manifest.height, manifest.width)
    with ray_cluster() as where:
        from saltray.distributed.prediction import choose_workers, stream_predictions

        chosen = choose_workers(workers, len(names))
        observer(
            PredictionPlanned(
                tiles=len(names),
                ensemble=f"{manifest.name} {manifest.version}",
                where=where,
                workers=chosen.count,
                device=chosen.device,
            )
        )
        batches = stream_predictions(
            home.uri,
            data,
            names,
            shape=shape,
            tta=tta,
            keep_probabilities=probabilities is not None,
            workers=chosen,
        )
        return _write(
            batches,
            shape,
            Path(out),
            masks=None if masks is None else Path(masks),
            probabilities=None if probabilities is None else Path(probabilities),
        )


def _write(
    batches: "Iterable[Batch]", shape: tuple[int, int], out: Path, *, masks: Path | None, probabilities: Path | None
) -> Prediction:
    """Write what comes in, batch by batch; the files get their names only when they are complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tiles = empty = 0
    with ExitStack() as stack:
        text = stack.enter_context(stack.enter_context(_complete(out)).open("w", newline=""))
        submission = csv.writer(text, lineterminator="\n")
        submission.writerow(["id", "rle_mask"])
        table = None
        if probabilities is not None:
            schema = pa.schema([("id", pa.string()), ("probability", pa.binary())])
            table = stack.enter_context(pq.ParquetWriter(stack.enter_context(_complete(probabilities)), schema))
        if masks is not None:
            with _refusal_explained(masks):
                masks.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            submission.writerows(zip(batch.ids, batch.rles, strict=True))
            tiles += len(batch.ids)
            empty += batch.rles.count("")
            if masks is not None:
                for tile, rle in zip(batch.ids, batch.rles, strict=True):
                    with _complete(masks / f"{tile}.png") as path:
                        Image.fromarray(decode_rle(rle, *shape) * np.uint8(255)).save(path, format="PNG")
            if table is not None:
                assert batch.probabilities is not None
                rows = [row.tobytes() for row in batch.probabilities]
                table.write_table(pa.table({"id": batch.ids, "probability": rows}, schema=schema))
    return Prediction(tiles, empty, out)


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and removed when it does not.

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
