"""A pytest plugin: one Ray for the whole session, tiles and settings that train in seconds, and a finished run."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import pytest

import saltray
from saltray.config import AugmentConfig, ClusterConfig, Config, FoldConfig, ModelConfig, OptimConfig, TrainConfig
from saltray.data.synthetic import write_dataset
from saltray.progress import Event, Observer

T = TypeVar("T")
E = TypeVar("E", bound=Event)

CPUS = 2
"""Logical CPUs of the session's Ray, so that as many jobs run at once on every machine."""


@dataclass(frozen=True)
class Recorded(Generic[T]):
    """What a command returned, and what it told."""

    result: T
    events: list[Event]
    printed: str
    """All that reached the standard streams, and the warnings that Python and Ray show by default."""

    def of(self, kind: type[E]) -> list[E]:
        """Its events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        """Its events by class, in order; one name for a row of the same."""
        names = [type(event).__name__ for event in self.events]
        return [name for at, name in enumerate(names) if at == 0 or name != names[at - 1]]


def record(command: Callable[..., T], *args: Any, observer: Observer | None = None, **settings: Any) -> Recorded[T]:
    """Call a command with an observer that keeps its events, and keep what it prints.

    Args:
        command: one of the library's, with its arguments.
        observer: is told of the events, too.
    """
    events: list[Event] = []

    def keep(event: Event) -> None:
        events.append(event)
        if observer is not None:
            observer(event)

    with tempfile.TemporaryFile("w+") as file:
        with _streams_into(file), _default_warnings() as shown:
            result = command(*args, **settings, observer=keep)
        file.seek(0)
        printed = file.read() + "".join(f"{warning.category.__name__}: {warning.message}\n" for warning in shown)
    return Recorded(result, events, printed)


@contextmanager
def _streams_into(file: IO[str]) -> Iterator[None]:
    """Standard output and error of this process, Python's and those of the C++ core, go into a file."""
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        with redirect_stdout(file), redirect_stderr(file):
            yield
    finally:
        file.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextmanager
def _default_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that are shown in a process of its own, where pytest has not set other filters."""
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", ignored)
        warnings.simplefilter("always", RayDeprecationWarning)
        yield shown


@pytest.fixture(scope="session")
def tiles_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic training tiles and 6 test tiles in the Kaggle layout."""
    return write_dataset(tmp_path_factory.mktemp("data") / "tiles", tiles=24, seed=1, test_tiles=6)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs Ray says so, by which it can be left out."""
    if "ray_here" in getattr(item, "fixturenames", ()) and item.get_closest_marker("ray") is None:
        pytest.fail("it uses `ray_here` without `@pytest.mark.ray`", pytrace=False)


@pytest.fixture(scope="session")
def ray_here(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Ray that a run starts on this machine, shared by all tests; its workers know the S3 server."""
    from saltray.distributed.cluster import ray_cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps a token there
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a job ends with its last epoch
        with ray_cluster(num_cpus=CPUS):
            yield


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """Two epochs of a thin AlbuNet as published: `small(data, store, run=, folds=, epochs=, cluster=)`."""

    def make(
        data: Path | str,
        store: str | Path,
        *,
        run: str = "r1",
        folds: int = 2,
        epochs: int = 2,
        cluster: ClusterConfig | None = None,
    ) -> Config:
        return Config(
            data=str(data),
            store=str(store),
            run=run,
            folds=FoldConfig(count=folds),
            model=ModelConfig(num_filters=4, encoder_width=8, decoder_batchnorm=False, deep_supervision=False),
            optim=OptimConfig(lr=3e-3, ema_decay=0.5, warmup_epochs=0),
            augment=AugmentConfig(rotate=0),
            train=TrainConfig(epochs=epochs, batch_size=4, precision="fp32", checkpoint_every=0),
            cluster=cluster or ClusterConfig(max_failures=0),
        )

    return make


@pytest.fixture(scope="session")
def finished(
    ray_here: None, small: Callable[..., Config], tiles_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Recorded[saltray.TrainResult]":
    """A run of two folds in a folder, one rank each, trained through the Python API; not to be changed."""
    return record(saltray.train, small(tiles_folder, tmp_path_factory.mktemp("finished")))
