"""Jobs and searches that need no cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saltray.config import Config, SearchConfig, loguniform
from saltray.search.spec import SearchSpec
from saltray.storage.base import Store
from saltray.storage.uri import open_store


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """The part of a store that belongs to a run, with the manifest that the driver writes first."""
    store = open_store(f"{tmp_path}/store/runs/r1")
    store.put_json("manifest.json", {})
    return store


@pytest.fixture
def make_job(home: Store, small: Callable[..., Config]) -> Callable[..., Any]:
    """Makes the job of a fold of `home`: `make_job(3)`; keyword arguments take the place of `Job`'s fields."""
    from saltray.distributed.jobs import Job

    def make(fold: int = 0, **changes: Any) -> Job:
        fields: dict[str, Any] = {
            "config": small("tiles", "store"),
            "name": f"fold-{fold}",
            "folds": (fold,),
            "tiles": None,
            "fold_of": np.zeros(1, np.int64),
            "parent": home,
        }
        return Job(**fields | changes)

    return make


@pytest.fixture
def search_home(tmp_path: Path) -> Store:
    """The part of a store that belongs to a search."""
    return open_store(f"{tmp_path}/store/searches/s1")


@pytest.fixture
def make_spec() -> Callable[..., SearchSpec]:
    """Makes a search of the learning rate, in four trials of nine epochs; keyword arguments are its settings."""

    def make(**settings: Any) -> SearchSpec:
        search: dict[str, Any] = {"space": {"optim.lr": loguniform(1e-5, 1e-2)}, "trials": 4, "epochs": 9}
        return SearchSpec.create(Config(data="d"), SearchConfig(**search | settings))

    return make
