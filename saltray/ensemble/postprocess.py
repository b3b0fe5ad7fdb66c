"""From probabilities to masks. Without torch, as every manifest has these settings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saltray.records import Count, Fraction


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """How probabilities become masks: the one place that decides it."""

    threshold: Fraction = 0.5
    """Probability above which a pixel is salt."""
    min_area: Count = 0
    """A mask of fewer pixels of salt than this, in the whole tile, becomes empty. The score of a tile without salt is 1
    or 0, so a few false pixels cost all of it, while few tiles have a little salt."""
    blank_is_empty: bool = False
    """Whether a tile whose pixels are all equal gets an empty mask: it shows nothing."""

    def apply(self, probabilities: NDArray[np.floating], images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The masks of some tiles, true where there is salt.

        Args:
            probabilities: [N, H, W], 0..1.
            images: [N, H, W], the tiles that were predicted.
        """
        salt: NDArray[np.bool_] = probabilities > np.float32(self.threshold)  # in single precision, as it was chosen
        salt[salt.sum(axis=(1, 2)) < self.min_area] = False
        if self.blank_is_empty:
            salt[blank_tiles(images)] = False
        return salt

    def __str__(self) -> str:
        parts = [f"threshold {self.threshold:.2f}"]
        parts += [f"masks below {self.min_area} pixels emptied"] if self.min_area else []
        parts += ["blank tiles emptied"] if self.blank_is_empty else []
        return ", ".join(parts)


def blank_tiles(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether all pixels of each tile are equal, [N]."""
    flat = images.reshape(len(images), -1)
    blank: NDArray[np.bool_] = flat.min(axis=1) == flat.max(axis=1)
    return blank
