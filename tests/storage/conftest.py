"""A store of each kind, and S3 with faults."""

import threading
from collections.abc import Callable, Iterator

import boto3
import pytest
from ceph import Ceph

from saltray.storage.base import Store
from saltray.storage.names import open_store

from .faulty_s3 import BUCKET, FaultProxy


@pytest.fixture(params=["folder", "s3", "ceph"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """What a store promises is tested on the real server as well."""
    kind: str = request.param
    return kind


@pytest.fixture
def store(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    yield from proxy_before(s3_server, monkeypatch)


@pytest.fixture
def ceph_proxy(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    yield from proxy_before(ceph.endpoint, monkeypatch)


def proxy_before(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy, and the environment of this test pointing to it; pauses between tries are short."""
    monkeypatch.setattr("saltray.storage.retry.FIRST_PAUSE_S", 0.001)
    with FaultProxy(endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def damage(any_store_uri: str) -> Callable[[str, bytes], None]:
    """Change an object's bytes behind the store's back, leaving its metadata as it is."""

    def on_disk(key: str, data: bytes) -> None:
        with open(f"{any_store_uri}/{key}", "wb") as file:  # noqa: PTH123
            file.write(data)

    def on_s3(key: str, data: bytes) -> None:
        name = f"{any_store_uri.removeprefix(f's3://{BUCKET}/')}/{key}"
        client = boto3.session.Session().client("s3")
        metadata = client.head_object(Bucket=BUCKET, Key=name)["Metadata"]
        client.put_object(Bucket=BUCKET, Key=name, Body=data, Metadata=metadata)

    return on_s3 if any_store_uri.startswith("s3://") else on_disk
