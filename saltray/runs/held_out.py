"""The score of an ensemble on labelled tiles that none of its models has seen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.data.labels import unpack_label
from saltray.errors import IntegrityError, NotFoundError
from saltray.runs.layout import SPLIT, run_folder
from saltray.runs.records import Split
from saltray.storage.base import Store
from saltray.training.evaluation import Interval
from saltray.training.metrics import TileCounts
from saltray.training.scores import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class HeldOutScore:
    """The competition score of masks that were predicted by a whole ensemble."""

    tiles: int
    score: float
    interval: Interval
    """Of `score`, over tiles."""


class Scorer:
    """Scores masks tile by tile, in the order of their labels.

    Args:
        labels: as `read_labels` gives them.
        shape: height and width of a tile.
    """

    def __init__(self, labels: NDArray[np.uint8], shape: tuple[int, int]) -> None:
        self._labels, self._shape = labels, shape
        self._tenths: list[int] = []

    def add(self, mask: NDArray[np.uint8]) -> None:
        """The mask [H, W] of the next tile."""
        label = unpack_label(self._labels[len(self._tenths)], self._shape)
        counts = TileCounts.of(mask[None].astype(np.float32), label[None], (0.5,))
        self._tenths.append(int(counts.tenths[0, 0]))

    def result(self) -> HeldOutScore:
        """The score of all tiles."""
        tenths = np.array(self._tenths)
        assert len(tenths) == len(self._labels)
        interval = bootstrap_interval(tenths)
        return HeldOutScore(tiles=len(tenths), score=float(tenths.mean() / 10), interval=interval)


def training_ids(root: Store, run: str) -> frozenset[str] | None:
    """The ids of the tiles that the models of a run were trained on; None if its split cannot be read.

    Args:
        root: the whole store.
        run: name of the run.
    """
    try:
        return frozenset(root.sub(run_folder(run)).get_record(SPLIT, Split).fold_of)
    except (NotFoundError, IntegrityError):
        return None
