"""A store of each kind, and S3 with simulated faults."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from ceph import Ceph

from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, FaultProxy


@pytest.fixture(params=["folder", "s3", "ceph"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """The guarantees of a store are tested on a real S3 server too."""
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
    """The proxy, set as the endpoint of this test; the pauses between retries are short."""
    monkeypatch.setattr("saltray.storage.retry.FIRST_PAUSE_S", 0.001)
    with FaultProxy(endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def s3(proxy: FaultProxy) -> Store:
    """An empty store behind the proxy, with the default deadline."""
    return open_store(f"s3://{BUCKET}/{uuid.uuid4()}")


@pytest.fixture
def impatient_s3(s3: Store) -> Store:
    """The same with a short deadline."""
    s3.deadline_s = 0.3
    return s3


@pytest.fixture
def corrupt(any_store_uri: str) -> Callable[[str, bytes], None]:
    """Replaces an object's bytes without changing its metadata."""

    def on_disk(key: str, data: bytes) -> None:
        Path(any_store_uri, key).write_bytes(data)

    def on_s3(key: str, data: bytes) -> None:
        name = f"{any_store_uri.removeprefix(f's3://{BUCKET}/')}/{key}"
        client = boto3.session.Session().client("s3")
        metadata = client.head_object(Bucket=BUCKET, Key=name)["Metadata"]
        client.put_object(Bucket=BUCKET, Key=name, Body=data, Metadata=metadata)

    return on_s3 if any_store_uri.startswith("s3://") else on_disk
