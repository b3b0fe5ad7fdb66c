"""What the environment tells S3's client: the encryption that a bucket may demand, access points, directory buckets."""

import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from saltray.errors import ConfigError
from saltray.storage.base import Store
from saltray.storage.s3 import S3Store
from saltray.storage.s3_client import ENCRYPTION, ENCRYPTION_KEY, encryption_from_environment
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, FOREVER, Fault, FaultProxy, refused

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("kind", "key", "arguments"),
    [
        ("", "", {}),
        ("AES256", "", {"ServerSideEncryption": "AES256"}),
        ("aws:kms", "", {"ServerSideEncryption": "aws:kms"}),
        ("aws:kms:dsse", KEY, {"ServerSideEncryption": "aws:kms:dsse", "SSEKMSKeyId": KEY}),
    ],
)
def test_the_encryption_is_the_environments(
    kind: str, key: str, arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENCRYPTION, kind)
    monkeypatch.setenv(ENCRYPTION_KEY, key)
    assert encryption_from_environment() == arguments


@pytest.mark.parametrize(("kind", "key"), [("kms", ""), ("AES256", KEY), ("", KEY)])
def test_an_impossible_encryption_is_a_config_error(kind: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENCRYPTION, kind)
    monkeypatch.setenv(ENCRYPTION_KEY, key)
    with pytest.raises(ConfigError, match=re.escape(f"{ENCRYPTION} is {kind!r}")) as caught:
        open_store("s3://bucket/x")
    assert "\n" not in str(caught.value)


def test_every_object_is_created_with_the_encryption(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("saltray.storage.s3.PART_BYTES", 5 << 20)
    monkeypatch.setenv(ENCRYPTION, "aws:kms")
    monkeypatch.setenv(ENCRYPTION_KEY, KEY)
    store = open_store(s3.uri)
    monkeypatch.delenv(ENCRYPTION)
    monkeypatch.delenv(ENCRYPTION_KEY)
    (tmp_path / "small").write_bytes(b"1")
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    deeper = pickle.loads(pickle.dumps(store)).sub("deeper")  # as in a worker without these variables
    for where in (store, deeper):
        proxy.encryptions.clear()
        where.put("a", b"1")
        where.put_new("b", b"1")
        where.put_file("c", tmp_path / "small")
        where.put_file("d", tmp_path / "big")
        assert where.get("a") == b"1"
        creating = {
            what: sent for what, sent in proxy.encryptions if "partNumber" not in what and "uploadId" not in what
        }
        assert len(creating) == 4
        assert set(creating.values()) == {("aws:kms", KEY)}
    proxy.encryptions.clear()
    open_store(s3.uri).put("e", b"1")
    assert {sent for _, sent in proxy.encryptions} == {(None, None)}


def test_a_bucket_that_demands_encryption_is_explained(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", status=403, code="AccessDenied", times=FOREVER)]
    assert "set AWS_SERVER_SIDE_ENCRYPTION if the bucket demands encryption headers" in refused(
        lambda: s3.put("a", b"1"), at_once_by=proxy
    )


ACCESS_POINTS = [
    ("arn:aws:s3:us-east-1:123456789012:accesspoint/mine", "mine-123456789012.s3-accesspoint.us-east-1.amazonaws.com"),
    ("arn:aws:s3:us-east-1:123456789012:accesspoint:mine", "mine-123456789012.s3-accesspoint.us-east-1.amazonaws.com"),
    (
        "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/mine",
        "mine-123456789012.s3-accesspoint.cn-north-1.amazonaws.com.cn",
    ),
    (
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-0123/accesspoint/mine",
        "mine-123456789012.op-0123.s3-outposts.us-west-2.amazonaws.com",
    ),
]


@pytest.mark.parametrize(("arn", "host"), ACCESS_POINTS)
@pytest.mark.parametrize("prefix", ["", "/salt/store"])
def test_an_access_point_is_asked_at_its_own_host(
    arn: str, host: str, prefix: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", arn.split(":")[3])
    store = open_store(f"s3://{arn}{prefix}/")
    assert isinstance(store, S3Store)
    assert store.uri == f"s3://{arn}{prefix}"
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.sub("runs") == open_store(f"{store.uri}/runs")
    asked: list[str] = []

    def reply(request: Any, **_: Any) -> AWSResponse:
        asked.append(request.url)
        return AWSResponse(request.url, 200, {"ETag": '"0"'}, SimpleNamespace(stream=lambda: [b""]))

    store.deadline_s = 0
    store._client().meta.events.register("before-send.s3.PutObject", reply)
    store.put("a", b"1")
    assert asked == [f"https://{host}{prefix}/a"]


def test_a_directory_bucket_is_listed_by_folders_and_in_any_order(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 Express refuses prefixes that do not end with '/', and returns names in no order."""
    for key in ("b", "a/2", "a/1", "c/d/e", "a-"):
        s3.put(key, b"1")
    proxy.faults = [Fault("GET", "list-type", action="reversed", times=FOREVER)]
    monkeypatch.setattr("saltray.storage.s3.DIRECTORY_BUCKET", BUCKET)
    proxy.seen.clear()
    assert [entry.key for entry in s3.list()] == ["a-", "a/1", "a/2", "b", "c/d/e"]
    assert [entry.key for entry in s3.list("a")] == ["a/1", "a/2"]
    assert s3.folders() == ["a", "c"]
    assert not s3.exists("absent")
    s3.delete_prefix("a")
    assert [entry.key for entry in s3.list()] == ["a-", "b", "c/d/e"]
    prefixes = [match[1] for seen in proxy.seen if (match := re.search(r"[?&]prefix=([^&]*)", seen))]
    assert len(prefixes) >= 6
    assert all(prefix.endswith("%2F") for prefix in prefixes)
