"""An empty store of each kind, and four tiles in two folds."""

import numpy as np
import pytest

from saltray.data.tiles import LabelledTiles
from saltray.storage.base import Store
from saltray.storage.uri import open_store


@pytest.fixture
def store(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


@pytest.fixture
def tiles() -> LabelledTiles:
    """Four tiles of 2x3; the first two are without salt."""
    masks = np.zeros((4, 2, 3), np.uint8)
    masks[2, 0], masks[3] = 1, 1
    return LabelledTiles(("a", "b", "c", "d"), np.zeros((4, 2, 3), np.uint8), masks)
