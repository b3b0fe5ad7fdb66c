"""One Ray for all tests of this folder, and a data set that a thin network learns in seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saltray.config import AugmentConfig, ClusterConfig, Config, FoldConfig, ModelConfig, OptimConfig, TrainConfig
from saltray.data.synthetic import synth


@pytest.fixture(scope="session")
def tiles_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic training tiles and 6 test tiles in the Kaggle layout."""
    return synth(tmp_path_factory.mktemp("data") / "tiles", tiles=24, seed=1, test_tiles=6)


@pytest.fixture(scope="session")
def ray_here(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Ray that a run starts on this machine, shared by all tests; its workers know the S3 server."""
    from saltray.distributed.runtime import ray_cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps a token there
        with ray_cluster():
            yield


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """Two epochs of a thin AlbuNet: `small(data, store, run=, folds=, cluster=)`."""

    def make(
        data: Path, store: str | Path, *, run: str = "r1", folds: int = 2, cluster: ClusterConfig | None = None
    ) -> Config:
        return Config(
            data=str(data),
            store=str(store),
            run=run,
            folds=FoldConfig(count=folds),
            model=ModelConfig(num_filters=4, encoder_width=8),
            optim=OptimConfig(lr=3e-3, ema_decay=0.5, warmup_epochs=0),
            augment=AugmentConfig(rotate=0),
            train=TrainConfig(epochs=2, batch_size=4, precision="fp32", checkpoint_every=0),
            cluster=cluster or ClusterConfig(max_failures=0),
        )

    return make
