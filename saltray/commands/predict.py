"""`saltray predict`: any number of tiles through an ensemble."""

import csv
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from saltray.data.labels import read_labels
from saltray.data.names import tile_id
from saltray.data.raw import list_images
from saltray.data.rle import decode_rle
from saltray.data.sample import check_against_sample
from saltray.data.source import Source
from saltray.data.tile_reader import TileReader
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.paths import check_kept, check_seen
from saltray.distributed.preflight import check_gpus
from saltray.ensemble.layout import MANIFEST, version_prefix
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, DataError, EnsembleError
from saltray.progress import Observer, PredictionPlanned, TilesClipped, TilesPredicted, log_event
from saltray.runs.held_out import HeldOutScore, Scorer, training_ids
from saltray.storage.outputs import Draft, check_apart, full_name, output_file, output_folder
from saltray.storage.uri import open_store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from saltray.distributed.prediction import Batch

Part = Literal["test", "train"]
PathOrUri = str | os.PathLike[str]
TELL_S = 0.5
"""Between two events of progress."""


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote."""

    tiles: int
    empty: int
    """Tiles predicted to hold no salt."""
    out: str
    """Path or URI of the submission, as given."""
    score: HeldOutScore | None = None
    """Of the training part, whose tiles have masks, where the models have seen none of them."""
    unscored: str | None = None
    """Why tiles of the training part have no score."""


@dataclass(frozen=True)
class Outputs:
    """Where the predictions go."""

    out: PathOrUri
    masks: PathOrUri | None
    probabilities: PathOrUri | None

    def named(self) -> dict[str, PathOrUri]:
        """Those that are written, by the names of their flags."""
        all_of_them = {"--out": self.out, "--masks": self.masks, "--probabilities": self.probabilities}
        return {flag: uri for flag, uri in all_of_them.items() if uri is not None}


def predict(
    *,
    ensemble: str,
    data: str,
    out: PathOrUri = "submission.csv",
    part: Part = "test",
    masks: PathOrUri | None = None,
    probabilities: PathOrUri | None = None,
    tta: bool = True,
    workers: int | None = None,
    observer: Observer = log_event,
) -> Prediction:
    """Predict every tile of a data set.

    The outputs are paths, file:///path or s3://bucket/key. They are written when everything is predicted, and replace
    what is there. If that fails before, nothing is left of them; if the disk or the store fails while they are written,
    some may be there, the submission last.

    Args:
        ensemble: `<store>/ensembles/<name>[/latest|/v3]`.
        data: a folder, a zip or s3://bucket/prefix.
        out: the Kaggle submission, `id,rle_mask`, in the order of the ids.
        part: which images of the data set. The test images have to be those of its sample_submission.csv, if there is
            one. Those of the training part are scored, if all have masks and the ensemble was not trained on them.
        masks: folder for one 8-bit PNG per tile, 255 where there is salt.
        probabilities: Parquet file with a row per tile: id, probability (float16, H x W in C order).
        tta: average over each tile and its mirror image.
        workers: model actors; one per GPU where there are any, else one per CPU.
        observer: receives the events.

    Raises:
        DataError: images cannot be predicted, all of which `problems` lists.
        EnsembleError, ResourceError, ConfigError, StorageError: see the message.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; use 1 or more")
    outputs = Outputs(out, masks, probabilities)
    check_apart(outputs.named())
    for flag, uri in outputs.named().items():
        check_kept(flag, os.fspath(uri))
    home = resolve(ensemble)
    manifest = read_manifest(home)
    source = Source(data)
    names = list_images(source, part)
    _check_not_inputs(outputs, home.uri, source)
    if part == "test":
        check_against_sample(source, [tile_id(name) for name in names])
    reader = TileReader(uri=source.uri, height=manifest.height, width=manifest.width, scale=manifest.pixel_range)
    check_gpus("set it to nothing to predict on CPUs")
    with _writer(outputs) as writer:  # first of all, what cannot be written is refused
        if clipped := reader.check(source, names):
            observer(TilesClipped(clipped))
        check_members(home.uri)
        if part == "train":
            writer.scorer, writer.unscored = _scorer(home.uri, manifest, source, reader, names)
        with ray_cluster(observer=observer) as where:
            from saltray.distributed.prediction import choose_workers, stream_predictions

            # A node that joins later tells the first tile that it does not see.
            check_seen(home.uri, partial(home.get, MANIFEST))
            check_seen(source.uri, partial(_read, source.uri, names[0]))
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
                reader,
                names,
                tta=tta,
                keep_probabilities=probabilities is not None,
                workers=chosen,
            )
            told = time.monotonic()
            for batch in batches:
                writer.add(batch, reader.shape)
                if writer.tiles == len(names) or time.monotonic() - told >= TELL_S:
                    told = time.monotonic()
                    observer(TilesPredicted(writer.tiles, len(names)))
    score = None if writer.scorer is None else writer.scorer.result()
    return Prediction(writer.tiles, writer.empty, os.fspath(out), score, writer.unscored)


def _read(data: str, name: str) -> bytes:
    return Source(data).read(name)


def _scorer(
    ensemble: str, manifest: EnsembleManifest, source: Source, reader: TileReader, names: list[str]
) -> tuple[Scorer | None, str | None]:
    """What scores the training part, or else why nothing can."""
    root = open_store(ensemble.removesuffix(f"/{version_prefix(manifest.name, manifest.version)}"))
    known = training_ids(root, manifest.run)
    if known is None:
        return None, f"the split of run {manifest.run} is not in {root.uri}, so the models may have seen these tiles"
    if seen := [name for name in names if tile_id(name) in known]:
        return None, f"the ensemble was trained on {len(seen):,} of these {len(names):,} tiles, by their ids"
    try:
        return Scorer(read_labels(source, names, reader.shape), reader.shape), None
    except DataError as error:
        return None, str(error)


def _check_not_inputs(outputs: Outputs, ensemble: str, source: Source) -> None:
    """Refuse to write over what is read, or over the labels, or into the data set's own folders."""
    home, files = full_name(ensemble), source.files()
    folders: set[str] = set()
    parents = {file.rpartition("/")[0] for file in files}
    while parents := {parent for parent in parents if parent} - folders:
        folders |= parents
        parents = {parent.rpartition("/")[0] for parent in parents}
    for flag, uri in outputs.named().items():
        name = full_name(uri)
        if f"{name}/".startswith(f"{home}/"):
            raise ConfigError(f"{flag} {uri} is in the ensemble, which never changes; choose another place for it")
        if name in files or (flag == "--masks" and name in folders):
            raise ConfigError(f"{flag} {uri} would replace files of the data set; choose another place for it")
        if source.would_read(name):
            raise ConfigError(f"{flag} {uri} would become a part of the data set; choose another place for it")


def check_members(ensemble: str) -> None:
    """Refuse an ensemble with members that are missing or damaged."""
    if faults := [member.fault for member in Ensemble.verify(ensemble) if member.fault is not None]:
        more = f" (and {len(faults) - 1} more member{'s' * (len(faults) > 2)})" * (len(faults) > 1)
        raise EnsembleError(f"{faults[0]}{more}; `saltray ensemble verify {ensemble}` checks them all")


class _Writer:
    """Writes what comes in, batch by batch."""

    def __init__(
        self,
        submission: tuple[Draft, IO[str]],
        masks: Draft | None,
        probabilities: "tuple[Draft, pq.ParquetWriter] | None",
    ) -> None:
        self.tiles = self.empty = 0
        self.scorer: Scorer | None = None
        self.unscored: str | None = None
        self._submission, self._masks, self._probabilities = submission, masks, probabilities
        self._rows = csv.writer(submission[1], lineterminator="\n")

    def add(self, batch: "Batch", shape: tuple[int, int]) -> None:
        """Write the predictions of a batch of tiles, of height and width `shape`."""
        self.tiles += len(batch.ids)
        self.empty += batch.rles.count("")
        draft, _ = self._submission
        with draft.writing():
            self._rows.writerows(zip(batch.ids, batch.rles, strict=True))
        if self._masks is not None:
            with self._masks.writing() as folder:
                for tile, rle in zip(batch.ids, batch.rles, strict=True):
                    mask = Image.fromarray(decode_rle(rle, *shape) * np.uint8(255))
                    mask.save(folder / f"{tile}.png", format="PNG")
        if self._probabilities is not None:
            import pyarrow as pa

            assert batch.probabilities is not None
            rows = [row.tobytes() for row in batch.probabilities]
            draft, table = self._probabilities
            with draft.writing():
                table.write_table(pa.table({"id": batch.ids, "probability": rows}, schema=table.schema))
        if self.scorer is not None:
            for rle in batch.rles:
                self.scorer.add(decode_rle(rle, *shape))


@contextmanager
def _writer(outputs: Outputs) -> Iterator[_Writer]:
    """Open all outputs. They are complete at the end of the block: first the masks, last the submission."""
    with ExitStack() as stack:
        submission = stack.enter_context(output_file(outputs.out))
        text = stack.enter_context(_opened(submission))
        text.write("id,rle_mask\n")
        table = masks = None
        if outputs.probabilities is not None:
            probabilities = stack.enter_context(output_file(outputs.probabilities))
            table = probabilities, stack.enter_context(_opened_parquet(probabilities))
        if outputs.masks is not None:
            masks = stack.enter_context(output_folder(outputs.masks))
        yield _Writer((submission, text), masks, table)


@contextmanager
def _opened(draft: Draft) -> Iterator[IO[str]]:
    with draft.writing() as path:
        file = path.open("w", newline="", encoding="utf-8")
    try:
        yield file
    finally:
        with draft.writing():
            file.close()


@contextmanager
def _opened_parquet(draft: Draft) -> "Iterator[pq.ParquetWriter]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("probability", pa.binary())])
    with draft.writing() as path:
        table = pq.ParquetWriter(path, schema)
    try:
        yield table
    finally:
        with draft.writing():
            table.close()
