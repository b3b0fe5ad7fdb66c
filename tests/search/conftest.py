"""A search's part of an empty store, and searches of nine epochs."""

from pathlib import Path
from typing import Any, Protocol

import pytest

from saltray.config import Config, SearchConfig, TrainConfig
from saltray.search.spec import SearchSpec
from saltray.storage.base import Store
from saltray.storage.uri import open_store


class SpecMaker(Protocol):
    def __call__(self, *, config: Config | None = None, **settings: Any) -> SearchSpec: ...


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """The part of search s1."""
    return open_store(str(tmp_path)).sub("searches/s1")


@pytest.fixture
def make_spec() -> SpecMaker:
    """`make_spec(config=, **settings of the search)`."""

    def make(*, config: Config | None = None, **settings: Any) -> SearchSpec:
        config = config or Config(data="d", train=TrainConfig(epochs=9))
        return SearchSpec.create(config, SearchConfig(**settings))

    return make
