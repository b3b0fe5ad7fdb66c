"""TensorBoard's files: the epochs of a fold or trial, and pictures of tiles that a fold held out.

A file is an object of a fixed name that is written as a whole, from what the store has: written again, it is the same.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saltray.ensemble.postprocess import Postprocess
from saltray.report.examples import pick_examples
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import events_file, fold_folder
from saltray.runs.out_of_fold import OutOfFold
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event

SCALARS = ("loss", "valid_loss", "score", "iou", "dice", "lr", "images_per_second")
PICTURES = 2
"""Of each fold's best, median and worst tiles."""
GAP = 4
"""White pixels between the parts of a picture."""

Pictures = dict[str, NDArray[np.uint8]]
"""Grey pictures, [H, W], by name."""


def write_fold_events(home: Store, fold: int, pictures: Pictures | None = None) -> None:
    """Write a fold's epochs for `tensorboard --logdir <store>/runs/<name>/tensorboard`.

    Args:
        home: the run's part of the store.
        fold: the fold; nothing is written before its first epoch.
        pictures: of held-out tiles.

    Raises:
        StorageError: the history cannot be read, or the file not be written.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import image

    if not (epochs := epochs_of(read_history(home.sub(fold_folder(fold))))):
        return
    events, last = epoch_events(epochs, epochs[-1].at), epochs[-1]
    for name, pixels in (pictures or {}).items():
        shown = image(name, pixels, dataformats="HW")
        events.append(Event(wall_time=last.at, step=last.epoch, summary=shown))
    home.put(events_file(fold_folder(fold)), to_file(events, epochs[0].at))


def held_out_pictures(
    predictions: OutOfFold, postprocess: Postprocess, hits: NDArray[np.int64], union: NDArray[np.int64]
) -> dict[int, Pictures]:
    """For each fold, a few of its best, median and worst tiles as image, label and prediction side by side.

    Args:
        predictions: of all tiles.
        postprocess: how they become masks.
        hits: [N], pixels of salt in both masks of each tile.
        union: [N], pixels of salt in either.
    """
    names: dict[int, str] = {}
    for fold in np.unique(predictions.fold_of):
        here = np.flatnonzero(predictions.fold_of == fold)
        for tile, rank in pick_examples(hits[here], union[here], each=PICTURES).items():
            names[int(here[tile])] = rank
    shown = predictions.some(list(names))
    masks = postprocess.apply(shown.probabilities, shown.tiles.images)
    pictures: dict[int, Pictures] = {}
    for row, (position, fold) in enumerate(zip(shown.positions.tolist(), shown.folds.tolist(), strict=True)):
        parts = shown.tiles.images[row], _black_and_white(shown.tiles.masks[row]), _black_and_white(masks[row])
        pictures.setdefault(fold, {})[f"{names[position]}/{shown.tiles.ids[row]}"] = _side_by_side(parts)
    return pictures


def epoch_events(epochs: Iterable[EpochMetrics], now: float) -> "list[Event]":
    """The scalars of each epoch, at the time when it ended, or now where that is not known."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    return [
        Event(wall_time=getattr(epoch, "at", now), step=epoch.epoch, summary=scalar(name, value))
        for epoch in epochs
        for name in SCALARS
        if (value := getattr(epoch, name)) is not None
    ]


def to_file(events: "Iterable[Event]", at: float) -> bytes:
    """A file of these events. tensorboardX's own writer needs a disk, and a thread that dies when it is full.

    Args:
        events: in order.
        at: when the first of them was, in seconds since 1970.
    """
    from tensorboardX.proto.event_pb2 import Event

    header = Event(wall_time=at, file_version="brain.Event:2")
    return b"".join(_framed(event.SerializeToString()) for event in (header, *events))


def _framed(event: bytes) -> bytes:
    """Its length and itself, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(event))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), event, struct.pack("<I", masked_crc32c(event))))


def _black_and_white(mask: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.where(mask, np.uint8(255), np.uint8(0))


def _side_by_side(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((parts[0].shape[0], GAP), 255, np.uint8)
    image, label, prediction = parts
    return np.concatenate((image, gap, label, gap, prediction), axis=1)
