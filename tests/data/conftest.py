"""The small data set in each kind of source, and a synthetic one."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saltray.data.packing import pack
from saltray.data.synthetic import write_dataset
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .mini import SOURCES, Array, Mini


@pytest.fixture(scope="session")
def mini() -> Mini:
    return Mini()


@pytest.fixture
def folder(mini: Mini, tmp_path: Path) -> Path:
    """The small data set as a folder that a test may change."""
    return mini.write(tmp_path / "raw")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def packed(folder: Path, store: Store) -> Store:
    """The folder of the packed small data set, whose raw files are in `folder`."""
    return store.sub(f"datasets/{pack(str(folder), store).name}")


@pytest.fixture(scope="session", params=SOURCES)
def any_source_uri(request: pytest.FixtureRequest, mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of the small data set (read-only), for each kind of source in turn."""
    home = tmp_path_factory.mktemp("source")
    bucket = ""
    if "s3" in request.param:
        request.getfixturevalue("s3_server")
        bucket = f"s3://saltray-test/{home.name}"
    return SOURCES[request.param](mini.write(home / "raw"), home / "source", bucket)


@pytest.fixture(scope="session")
def synth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of 400 labelled and 7 unlabelled tiles (read-only)."""
    return write_dataset(tmp_path_factory.mktemp("synth") / "data", tiles=400, test_tiles=7, seed=3)


@pytest.fixture(scope="session")
def synth_images(synth_folder: Path) -> Array:
    """Its grey images [400, 101, 101] by ascending id."""
    return np.stack([np.asarray(Image.open(p))[..., 0] for p in sorted((synth_folder / "train/images").iterdir())])


@pytest.fixture(scope="session")
def synth_salt(synth_folder: Path) -> NDArray[np.bool_]:
    """Its masks [400, 101, 101] by ascending id."""
    return np.stack([np.asarray(Image.open(p)) > 0 for p in sorted((synth_folder / "train/masks").iterdir())])
