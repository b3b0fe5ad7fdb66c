"""The competition's score, IoU and Dice of predicted masks, from integer counts that can be summed over ranks.

The score of a tile is the share of the thresholds 0.50, 0.55, .. 0.95 that its IoU exceeds. They are compared as
integers, since floats get ties such as 3/5 > 0.6 wrong. If the true mask is empty, an empty prediction scores 1 and any
other 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saltray.training.process_group import ProcessGroup

_TWENTIETHS = range(10, 20)
"""The ten IoU thresholds, in twentieths."""
_CHUNK = 256
"""Number of tiles that `TileCounts.of` processes together."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Sums over tiles, in one int64 tensor [13] on their device, so that one all-reduce sums them over ranks.

    Args:
        sums: number of tiles, pixels of intersection, pixels of union, and for each of the ten IoU thresholds the
            number of tiles that exceed it.
    """

    sums: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> "Counts":
        """The counts of no tiles."""
        return cls(torch.zeros(3 + len(_TWENTIETHS), dtype=torch.int64, device=device))

    @classmethod
    def of(cls, probabilities: Tensor, masks: Tensor, threshold: float) -> "Counts":
        """The counts of some tiles; a pixel is predicted as salt if its probability is greater than `threshold`.

        Args:
            probabilities: [N, H, W], 0..1.
            masks: [N, H, W], salt where it is not 0.
            threshold: 0..1.
        """
        predicted, truth = probabilities > threshold, masks > 0
        intersection = (predicted & truth).flatten(1).sum(dim=1)
        union = (predicted | truth).flatten(1).sum(dim=1)
        tiles = torch.ones_like(union)
        return cls(torch.column_stack([tiles, intersection, union, _exceeds(intersection, union)]).sum(dim=0))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.sums + other.sums)

    def all_reduce(self, group: ProcessGroup) -> "Counts":
        """The counts of all ranks together, on every rank."""
        return Counts(group.sum(self.sums.clone()))

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return int(self.sums[0])

    @property
    def score(self) -> float:
        """Competition score, 0..1: the mean over the tiles."""
        return int(self.sums[3:].sum()) / (len(_TWENTIETHS) * self.tiles)

    @property
    def iou(self) -> float:
        """Intersection over union of all pixels together; 1 if neither truth nor prediction has salt."""
        intersection, union = self.sums[1:3].tolist()
        return intersection / union if union else 1.0

    @property
    def dice(self) -> float:
        """Dice coefficient (F1) of all pixels together; 1 if neither truth nor prediction has salt."""
        intersection, union = self.sums[1:3].tolist()
        return 2 * intersection / (union + intersection) if union else 1.0


@dataclass(frozen=True, eq=False)
class TileCounts:
    """Pixels of each of N tiles at each of T thresholds, from which every score follows; all int64.

    Args:
        salt: [N], labelled as salt.
        predicted: [N, T], with a probability above the threshold.
        hits: [N, T], both.
    """

    salt: NDArray[np.int64]
    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.floating] | Tensor,
        masks: NDArray[np.uint8] | Tensor,
        thresholds: Sequence[float],
    ) -> "TileCounts":
        """The counts at many thresholds, in one pass over the pixels.

        Args:
            probabilities: [N, H, W], 0..1.
            masks: [N, H, W], salt where it is not 0.
            thresholds: probability thresholds, in any order.
        """
        cuts, place = torch.unique(torch.tensor(thresholds, dtype=torch.float32), return_inverse=True)
        salt = torch.zeros(len(probabilities), dtype=torch.int64)
        above = torch.zeros((len(probabilities), 2, len(cuts)), dtype=torch.int64)
        for start in range(0, len(probabilities), _CHUNK):
            part = slice(start, start + _CHUNK)
            # The number of cuts that each pixel exceeds.
            levels = torch.bucketize(torch.as_tensor(probabilities[part]).float().cpu(), cuts)
            truth = torch.as_tensor(masks[part]).cpu() > 0
            above[part], salt[part] = _pixels_above(levels.flatten(1), truth.flatten(1), len(cuts))
        above = above[:, :, place]
        return cls(salt.numpy(), above.sum(dim=1).numpy(), above[:, 1].numpy())

    @property
    def tenths(self) -> NDArray[np.int64]:
        """Competition score of each tile at each threshold in tenths, [N, T]."""
        union = self.predicted + self.salt[:, None] - self.hits
        exceeds = _exceeds(torch.from_numpy(self.hits), torch.from_numpy(union))
        return exceeds.sum(dim=-1).numpy()

    @property
    def tenths_if_empty(self) -> NDArray[np.int64]:
        """Competition score of each tile in tenths where its prediction is empty, [N]."""
        return np.where(self.salt == 0, len(_TWENTIETHS), 0)


def _exceeds(intersection: Tensor, union: Tensor) -> Tensor:
    """Whether the IoU exceeds each of the ten thresholds: bool [..., 10]."""
    twentieths = torch.arange(_TWENTIETHS.start, _TWENTIETHS.stop, device=union.device)
    return (20 * intersection[..., None] > twentieths * union[..., None]) | (union == 0)[..., None]


def _pixels_above(levels: Tensor, truth: Tensor, cuts: int) -> tuple[Tensor, Tensor]:
    """Per tile, the number of pixels without and with salt that exceed each cut, [n, 2, cuts], and of salt, [n].

    Args:
        levels: number of cuts that each pixel exceeds, int64 [n, pixels].
        truth: whether each pixel is salt, bool [n, pixels].
        cuts: number of cuts.
    """
    n = len(levels)
    cell = (2 * torch.arange(n)[:, None] + truth) * (cuts + 1) + levels
    histogram = torch.bincount(cell.flatten(), minlength=n * 2 * (cuts + 1)).view(n, 2, cuts + 1)
    above = histogram.flip(-1).cumsum(-1).flip(-1)
    return above[..., 1:], above[:, 1, 0]
