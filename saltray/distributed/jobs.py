"""What the driver sends to the ranks, and what they send back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.tiles import Tiles
from saltray.storage.base import Store


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know; no secret in it, for Ray's dashboard shows it."""

    config: Config
    name: str
    """Its folder in `run`, and its name for Ray: fold-3, or trial-007 of a search."""
    folds: tuple[int, ...]
    """The folds to train, in turn epoch by epoch; one, but for a search that averages several."""
    tiles: "ray.ObjectRef[Tiles]"
    """All tiles, once a node in Ray's object store."""
    fold_of: NDArray[np.int64]
    """[N] fold of each tile."""
    run: Store
    """The part of the store that is the run's, or the search's; it travels as a URI."""
    initial: "ray.ObjectRef[dict[str, NDArray[Any]]] | None" = None
    """The network's weights before training, where some were given."""

    @property
    def home(self) -> Store:
        """The job's own part of the store."""
        return self.run.sub(self.name)


@dataclass(frozen=True)
class Stopped:
    """A job that ended by a fault which would come again, so that Ray must not retry it."""

    reason: str
    diverged: bool


@dataclass(frozen=True)
class Tried:
    """A trial of a search that came to its end."""

    epochs: tuple[dict[str, Any], ...]
    """Its whole history, also that of earlier attempts."""
