"""How good masks are: the competition's score, IoU and Dice, as sums of integers that ranks can add.

The score of a tile is the share of the thresholds 0.50, 0.55, .. 0.95 that its IoU exceeds, compared as integers, for
in floats ties such as 3/5 > 0.6 come out wrong. Where the truth is empty, an empty prediction scores 1 and any other 0.
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
_TILES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Counts:
    """Sums over tiles, in one int64 tensor [13] on their device, so that ranks add them at once.

    Args:
        sums: tiles, pixels of intersection, pixels of union, and the tiles that exceed each of the ten thresholds.
    """

    sums: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> "Counts":
        """No tiles yet."""
        return cls(torch.zeros(3 + len(_TWENTIETHS), dtype=torch.int64, device=device))

    @classmethod
    def of(cls, probabilities: Tensor, masks: Tensor, threshold: float) -> "Counts":
        """Count tiles; a pixel is predicted as salt where its probability is greater than `threshold`.

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

    def all_reduce(self, ranks: ProcessGroup) -> "Counts":
        """The counts of all ranks together."""
        return Counts(ranks.sum(self.sums.clone()))

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return int(self.sums[0])

    @property
    def score(self) -> float:
        """Competition score, 0..1: the mean over tiles."""
        return int(self.sums[3:].sum()) / (len(_TWENTIETHS) * self.tiles)

    @property
    def iou(self) -> float:
        """Intersection over union of all pixels together; 1 if there is no salt in truth and prediction."""
        intersection, union = self.sums[1:3].tolist()
        return intersection / union if union else 1.0

    @property
    def dice(self) -> float:
        """Dice coefficient (F1) of all pixels together; 1 if there is no salt in truth and prediction."""
        intersection, union = self.sums[1:3].tolist()
        return 2 * intersection / (union + intersection) if union else 1.0


def score_at_thresholds(
    probabilities: NDArray[np.floating] | Tensor, masks: NDArray[np.uint8] | Tensor, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """`Counts.of(probabilities, masks, threshold).score` for many thresholds, in one pass over the pixels.

    Args:
        probabilities: [N, H, W], 0..1.
        masks: [N, H, W], salt where it is not 0.
        thresholds: any number of them, in any order.

    Returns:
        The scores, in the order of the thresholds.
    """
    cuts, place = torch.unique(torch.tensor(thresholds, dtype=torch.float32), return_inverse=True)
    hits = torch.zeros(len(cuts), dtype=torch.int64)
    for start in range(0, len(probabilities), _TILES_AT_ONCE):
        part = slice(start, start + _TILES_AT_ONCE)
        levels = torch.bucketize(
            torch.as_tensor(probabilities[part]).float().cpu(), cuts
        )  # how many cuts a pixel exceeds
        truth = torch.as_tensor(masks[part]).cpu() > 0
        above, salt = _pixels_above(levels.flatten(1), truth.flatten(1), len(cuts))
        hits += _exceeds(above[:, 1], above[:, 0] + salt[:, None]).sum(dim=(0, 2))
    return (hits[place].double() / (len(_TWENTIETHS) * len(probabilities))).numpy()


def _exceeds(intersection: Tensor, union: Tensor) -> Tensor:
    """Whether the IoU exceeds each of the ten thresholds: bool [..., 10]."""
    twentieths = torch.tensor(_TWENTIETHS, device=union.device)
    return (20 * intersection[..., None] > twentieths * union[..., None]) | (union == 0)[..., None]


def _pixels_above(levels: Tensor, truth: Tensor, cuts: int) -> tuple[Tensor, Tensor]:
    """Pixels of each tile that exceed each cut, without and with salt, [n, 2, cuts], and its pixels of salt, [n]."""
    n = len(levels)
    cell = (2 * torch.arange(n)[:, None] + truth) * (cuts + 1) + levels
    histogram = torch.bincount(cell.flatten(), minlength=n * 2 * (cuts + 1)).view(n, 2, cuts + 1)
    above = histogram.flip(-1).cumsum(-1).flip(-1)
    return above[..., 1:], above[:, 1, 0]
