"""The run-length encoding of the TGS Salt Identification Challenge.

Runs are `start length` pairs. Pixels are counted from 1, top to bottom and then left to right. An empty mask gives an
empty string.
"""

import numpy as np
from numpy.typing import NDArray

from saltray.errors import DataError


def encode_rle(mask: NDArray[np.generic]) -> str:
    """The runs of non-zero pixels of a mask [H, W]; adjacent runs are merged."""
    salt = np.zeros(mask.size + 2, dtype=np.int8)
    salt[1:-1] = mask.T.ravel() != 0
    edges = np.flatnonzero(np.diff(salt)) + 1
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges.tolist()))


def decode_rle(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """The mask [height, width] of 0 and 1 with the runs in `text`.

    Raises:
        DataError: the runs are not pairs of integers, are out of order, overlap or are outside the mask.
    """
    tokens = text.split()
    if len(tokens) % 2:
        raise DataError(f"run-length encoding has {len(tokens)} numbers; write pairs of start and length")
    for token in tokens:
        if not (token.isascii() and token.isdigit() and len(token) < 18):
            raise DataError(f"run-length encoding has {token[:20]!r}; write integers from 1")
    starts, lengths = np.array(tokens, dtype=np.int64).reshape(-1, 2).T
    ends = starts + lengths
    for bad, problem in (
        (starts < 1, "starts before pixel 1"),
        (lengths < 1, "is shorter than 1 pixel"),
        (ends > height * width + 1, f"ends after pixel {height * width}"),
        (np.r_[False, starts[1:] < ends[:-1]], "overlaps the previous run or is out of order"),
    ):
        if bad.any():
            run = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"run-length encoding: run {run + 1} ({starts[run]} {lengths[run]}) {problem}; "
                f"write ascending runs within {height}x{width} pixels"
            )
    # If a run starts where the previous one ends, the two steps cancel.
    steps = np.zeros(height * width + 1, dtype=np.int8)
    steps[starts - 1] += 1
    steps[ends - 1] -= 1
    return np.ascontiguousarray(np.cumsum(steps[:-1], dtype=np.int8).astype(np.uint8).reshape(width, height).T)
