"""What a client sees of each fault, and whether the server executed the request."""

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from faults.s3_proxy import FAULTS, SeededProxy, running

BUCKET = "saltray-test"
BROKEN = (BotoCoreError, HTTPClientError, OSError)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def client(endpoint: str) -> Any:
    """One that retries nothing."""
    once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=once)


@pytest.fixture
def proxy(s3_server: str, request: pytest.FixtureRequest) -> Iterator[SeededProxy]:
    """One that gives the first request the named fault."""
    proxy = SeededProxy(s3_server, 0, rate=1, limit=1, kinds=[request.param])
    with running(proxy):
        yield proxy


@pytest.mark.parametrize(
    ("proxy", "status", "executed"),
    [("500", 500, False), ("503", 503, False), ("500 after effect", 500, True)],
    indirect=["proxy"],
)
def test_an_error_of_the_server(proxy: SeededProxy, s3_server: str, key: str, status: int, executed: bool) -> None:
    with pytest.raises(ClientError) as caught:
        client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert exists(s3_server, key) is executed
    client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")


@pytest.mark.parametrize(("proxy", "executed"), [("reset", False), ("reset after effect", True)], indirect=["proxy"])
def test_a_reset_connection(proxy: SeededProxy, s3_server: str, key: str, executed: bool) -> None:
    with pytest.raises(BROKEN, match="reset|closed"):
        client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert exists(s3_server, key) is executed
    client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")


@pytest.mark.parametrize("proxy", ["truncation", "reset in the body"], indirect=True)
def test_an_answer_that_breaks_off_in_its_body(proxy: SeededProxy, s3_server: str, key: str) -> None:
    client(s3_server).put_object(Bucket=BUCKET, Key=key, Body=bytes(1 << 20))
    broken = client(proxy.endpoint).get_object(Bucket=BUCKET, Key=key)["Body"]
    with pytest.raises(Exception, match="broken|incomplete|IncompleteRead|expecting|read"):
        broken.read()
    assert len(client(proxy.endpoint).get_object(Bucket=BUCKET, Key=key)["Body"].read()) == 1 << 20


@pytest.mark.parametrize("proxy", ["delay"], indirect=True)
def test_a_delayed_request_is_executed(proxy: SeededProxy, s3_server: str, key: str) -> None:
    client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert proxy.injected == {"delay": 1}
    assert exists(s3_server, key)


@pytest.mark.parametrize("proxy", ["500"], indirect=True)
def test_an_outage_ends(proxy: SeededProxy, key: str) -> None:
    proxy.limit = 0
    proxy.outage(3600)
    for _ in range(3):
        with pytest.raises(BROKEN):
            client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")
    proxy.outage(0)
    client(proxy.endpoint).put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert proxy.injected == {"outage": 2}


def test_the_seed_decides_and_the_limit_ends_it() -> None:
    def drawn(seed: int, limit: int = 1000) -> list[str | None]:
        proxy = SeededProxy("http://127.0.0.1:9", seed, rate=0.3, limit=limit)
        kinds: list[str | None] = []
        with proxy:
            for at in range(200):
                before = proxy.injected.copy()
                proxy.fault_for("GET" if at % 2 else "PUT", "/b/k")
                kinds.append(next(iter(proxy.injected - before), None))
        return kinds

    whole = drawn(1)
    assert set(whole) == {*FAULTS, None}
    assert whole == drawn(1) != drawn(2)
    assert not {whole[at] for at in range(0, 200, 2)} & {"truncation", "reset in the body"}
    five = drawn(1, limit=5)
    last = [at for at, kind in enumerate(five) if kind][-1]
    assert five[: last + 1] == whole[: last + 1]
    assert len([kind for kind in five if kind]) == 5


def exists(endpoint: str, key: str) -> bool:
    return client(endpoint).list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"] == 1
