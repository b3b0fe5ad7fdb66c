"""Fixtures of several rooms: S3 and MLflow servers, a store of each kind, an ensemble, and the command line.

`ray_session` has those of Ray.
"""

import hashlib
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import mlflow_server
import pytest
from ceph import Ceph, missing
from command import Answer, Live, Saltray, point_to, require, s3_environment
from moto_server import moto_server
from samples import ensemble_manifest

from saltray.cli import app
from saltray.config import Config, FoldConfig, ModelConfig, TrainConfig
from saltray.data.pixel_range import PixelRange
from saltray.ensemble.manifest import Member
from saltray.storage.uri import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytest_plugins = ["ray_session"]
BUCKET = "saltray-test"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of an S3 server with an empty bucket `saltray-test`; the AWS_* variables point to it from here on."""
    with moto_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        point_to(patch, s3_environment(endpoint, "test-access-key", "test-secret-key"))
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield endpoint


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A server that checks signatures, checksums and clocks, with an empty bucket `saltray-test`."""
    require(missing())
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        with pytest.MonkeyPatch.context() as patch:
            point_to(patch, server.environment)
            boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture
def ceph(ceph_server: Ceph, monkeypatch: pytest.MonkeyPatch) -> Ceph:
    """The same, and the AWS_* variables of this test pointing to it."""
    point_to(monkeypatch, ceph_server.environment)
    return ceph_server


@pytest.fixture(params=["folder", "s3"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Where `any_store_uri` is: a folder, `s3` (moto's server, quick) or `ceph` (real)."""
    kind: str = request.param
    return kind


@pytest.fixture
def any_store_uri(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty store of its own for each test, on each kind in turn."""
    if store_kind == "folder":
        return str(tmp_path / "store")
    request.getfixturevalue({"s3": "s3_server", "ceph": "ceph"}[store_kind])
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def mlflow_uri(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server's."""
    require(mlflow_server.missing())
    assert pytestconfig.cache is not None
    program = mlflow_server.prepare(Path(pytestconfig.cache.mkdir("mlflow")))
    with mlflow_server.mlflow_server(program, tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture
def mlflow_client(mlflow_uri: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """Of that server, with an experiment of this test's own, by its name, in the environment."""
    from mlflow import MlflowClient

    from saltray.runs import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # on a busy machine
    monkeypatch.setattr(tracking, "LAST_S", 300)
    return MlflowClient(mlflow_uri)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of an ensemble of two thin, untrained networks for tiles of 101x101 pixels; not to be changed."""
    import torch
    from safetensors.torch import save

    from saltray.models.build import build_model

    config = Config(
        data="unused",
        folds=FoldConfig(count=2),
        model=ModelConfig(encoder_width=4, num_filters=2),
        train=TrainConfig(precision="fp32"),
    )
    store = open_store(str(tmp_path_factory.mktemp("untrained")))
    home = store.sub("ensembles/r1/v1")
    members = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for fold in range(2):
            data = save(build_model(config.model).state_dict())
            home.put(f"fold-{fold}.safetensors", data)
            digest = hashlib.sha256(data).hexdigest()
            members.append(Member(fold=fold, key=f"fold-{fold}.safetensors", sha256=digest, score=0.7))
    manifest = ensemble_manifest(members=tuple(members), pixel_range=PixelRange(bits=8, maximum=255), config=config)
    home.put_record("manifest.json", manifest)
    return home.uri


@pytest.fixture
def saltray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Saltray]:
    """`saltray ARGS` in this process, in a folder of its own, with a terminal too wide to wrap."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def call(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["saltray", *map(str, args)])
        code: object = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        return Answer(code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Starts `saltray ARGS` with a home of its own; whatever is left of it is killed after the test."""
    started: list[Live] = []

    def start(*args: object) -> Live:
        started.append(Live(*args, home=tmp_path))
        return started[-1]

    yield start
    for live in started:
        live.end()
