"""S3 behind a network and servers at fault. The requests are real ones, to a real server on this machine."""

import hashlib
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Store
from saltray.storage.names import open_store

from .faulty_s3 import BUCKET, Fault, FaultProxy

FOREVER = 10**6
PART_BYTES = 5 << 20


@pytest.fixture
def s3(proxy: FaultProxy) -> Store:
    """A store of its own behind the proxy, with the usual deadline."""
    return open_store(f"s3://{BUCKET}/{uuid.uuid4()}")


@pytest.fixture
def hasty(s3: Store) -> Store:
    """The same, giving up soon."""
    s3.deadline_s = 0.3
    return s3


def refused(call: Callable[[], Any], kind: type[StorageError] = StorageError) -> str:
    """The message with which a call fails."""
    with pytest.raises(StorageError) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, "BadGateway"),
        (503, "SlowDown"),
        (504, "Timeout"),
        (400, "RequestTimeout"),
        (400, "XAmzContentSHA256Mismatch"),
        (409, "ConditionalRequestConflict"),
        (429, "TooManyRequests"),
    ],
)
def test_transient_replies_are_tried_again(status: int, code: str, s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", status=status, code=code, times=3), Fault("GET", status=status, code=code, times=2)]
    assert s3.put_new("a", b"one") is True
    assert s3.get("a") == b"one"
    assert [entry.key for entry in s3.list()] == ["a"]


@pytest.mark.parametrize("action", ["reset", "silence"])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_lost_requests_and_replies_are_tried_again(method: str, action: str, s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method, action=action, times=2)]
    s3.put("a", b"one")
    assert s3.exists("a")
    assert s3.get("a") == b"one"
    assert s3.folders() == []
    s3.delete("a")
    assert not s3.exists("a")
    assert proxy.faults[0].times == 0


def test_a_lost_reply_to_a_create_only_put_is_our_success(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", action="silence", times=2)]
    assert s3.put_new("a", b"one") is True
    assert s3.put_new("a", b"one") is False


def test_a_lost_create_only_put_does_not_claim_anothers_equal_object(s3: Store, proxy: FaultProxy) -> None:
    s3.put_new("a", b"one")
    proxy.faults = [Fault("PUT", action="silence", times=1)]
    assert s3.put_new("a", b"one") is False


@pytest.fixture
def big_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A file of three parts (of the least size that S3 allows), and its digest."""
    monkeypatch.setattr("saltray.storage.s3.PART_BYTES", PART_BYTES)
    data = bytes(range(256)) * (2 * PART_BYTES // 256 + 1)
    path = tmp_path / "big"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "partNumber=2", status=500, times=2),
        Fault("PUT", "partNumber=1", action="silence", times=1),
        Fault("POST", "?uploads", status=503, times=2),
        Fault("POST", "uploadId=", action="silence", times=1),
        Fault("POST", "uploadId=", status=404, code="NoSuchUpload"),
        Fault("HEAD", status=503, times=2),
    ],
    ids=lambda fault: f"{fault.method} {fault.text} {fault.status or fault.action}",
)
def test_a_large_file_arrives_whole(fault: Fault, s3: Store, proxy: FaultProxy, big_file: tuple[Path, str]) -> None:
    path, digest = big_file
    proxy.faults = [fault]
    assert s3.put_file("big", path) == digest
    assert fault.times == 0
    assert hashlib.sha256(s3.get("big")).hexdigest() == digest


@pytest.mark.parametrize(("method", "text"), [("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_a_failed_large_file_leaves_nothing(
    method: str, text: str, hasty: Store, proxy: FaultProxy, big_file: tuple[Path, str]
) -> None:
    path, _ = big_file
    proxy.faults = [Fault(method, text, status=500, times=FOREVER)]
    assert "gave up" in refused(lambda: hasty.put_file("big", path))
    assert not hasty.exists("big")
    uploads = boto3.session.Session().client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [upload["Key"] for upload in uploads if f"s3://{BUCKET}/{upload['Key']}" == f"{hasty.uri}/big"] == []


def test_a_server_that_confirms_but_does_not_keep_is_found_out(s3: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"new!")
    proxy.faults = [Fault("PUT", action="swallow")]
    assert "does not hold the 4 bytes" in refused(lambda: s3.put_file("a", path), IntegrityError)
    s3.put("a", b"old!")
    proxy.faults = [Fault("PUT", action="swallow")]
    assert "does not hold the 4 bytes" in refused(lambda: s3.put_file("a", path), IntegrityError)


def test_a_reply_cut_short_is_read_again(s3: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    s3.put("a", b"0123456789")
    proxy.faults = [Fault("GET", "/a", action="truncate", times=2)]
    assert s3.get("a") == b"0123456789"
    proxy.faults = [Fault("GET", "/a", action="truncate", times=2)]
    s3.get_file("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_a_reply_always_cut_short_leaves_no_file(hasty: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    hasty.put("a", b"0123456789")
    proxy.faults = [Fault("GET", "/a", action="truncate", times=FOREVER)]
    assert "gave up" in refused(lambda: hasty.get_file("a", tmp_path / "copy"))
    assert list(tmp_path.iterdir()) == []


def test_a_listing_goes_on_over_pages_and_faults(s3: Store, proxy: FaultProxy) -> None:
    names = [f"{folder}/{number}" for folder in "abc" for number in range(3)]
    for name in names:
        s3.put(name, b"")
    proxy.seen.clear()
    proxy.faults = [Fault("GET", "continuation-token", status=503, times=2)]
    proxy.faults += [Fault("GET", "list-type", action="short pages", times=FOREVER)]
    assert [entry.key for entry in s3.list()] == names
    assert len(proxy.seen) >= 5 + 2
    assert s3.folders() == ["a", "b", "c"]
    s3.delete_prefix("b")
    assert s3.folders() == ["a", "c"]


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "grant these credentials s3:ListBucket"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock is more than 15 minutes off; set it"),
        (400, "ExpiredToken", "renew the credentials"),
        (404, "NoSuchBucket", "create it, or correct the URI"),
        (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's region"),
        (403, "QuotaExceeded", "delete what is no longer needed"),
        (418, "Teapot", "look up Teapot in the store's documentation"),
    ],
)
def test_what_the_user_must_mend_is_said_at_once(
    status: int, code: str, remedy: str, s3: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    proxy.faults = [Fault(method, status=status, code=code, times=FOREVER) for method in ("PUT", "GET", "DELETE")]
    for call in (
        lambda: s3.put("a", b""),
        lambda: s3.put_new("a", b""),
        lambda: s3.put_file("a", file),
        lambda: s3.get("a"),
        lambda: list(s3.list()),
        lambda: s3.delete("a"),
    ):
        proxy.seen.clear()
        message = refused(call)
        assert len(proxy.seen) == 1
        assert message.startswith(s3.uri)
        assert code in message
        assert remedy in message


def test_a_refused_head_is_explained_without_a_body(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("HEAD", status=403, times=FOREVER)]
    assert "403: access is denied; grant" in refused(lambda: s3.exists("a"))
    assert len(proxy.seen) == 1


def test_a_missing_bucket_is_not_a_missing_object(s3_server: str) -> None:
    store = open_store("s3://saltray-no-such-bucket/x")
    for call in (lambda: store.exists("a"), lambda: store.get("a"), lambda: store.put("a", b""), store.check_writable):
        assert "NoSuchBucket: there is no such bucket; create it" in refused(call)
    assert "no such object" in refused(lambda: open_store(f"s3://{BUCKET}/x").get("a"), NotFoundError)


def test_a_server_without_create_only_puts_is_refused(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", status=501, code="NotImplemented", times=FOREVER)]
    assert "no create-only puts (If-None-Match)" in refused(lambda: s3.put_new("a", b""))
    proxy.faults = [Fault("PUT", action="unconditional", times=FOREVER)]
    assert "create-only puts (If-None-Match) are not honoured" in refused(s3.check_writable)
    assert [path for path in proxy.seen if path.startswith("DELETE")] != []


def test_a_dead_endpoint_is_given_up_at_the_deadline(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "0.5")
    message = refused(lambda: open_store(f"s3://{BUCKET}").put("a", b""))
    assert "gave up after" in message
    assert "over 0.5 s" in message
    assert str(port) in message


def test_a_silent_endpoint_is_given_up_at_the_deadline(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "0")
        message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "gave up after 1 tries over 0 s: Read timeout" in message


def test_no_credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in refused(lambda: open_store(f"s3://{BUCKET}").get("a"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", "minio"),
        ("AWS_ENDPOINT_URL_S3", "http://"),
        ("AWS_DEFAULT_REGION", "us east!"),
        ("AWS_PROFILE", "nobody"),
    ],
)
def test_a_wrong_setting_is_said_at_once(
    variable: str, value: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "gave up" not in message
    assert value in message
    assert "AWS_ENDPOINT_URL_S3" in message


def test_an_unknown_host_is_said_at_once(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a name server that knows nothing
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minoi.example:9000")
    message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "minoi.example" in message
    assert "there is no such host: correct AWS_ENDPOINT_URL_S3" in message


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1"),
        ({"AWS_REGION": "eu-north-1"}, "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "eu-north-1", "AWS_REGION": "eu-west-1"}, "eu-north-1"),
    ],
)
def test_the_region_is_the_environments(
    variables: dict[str, str], region: str, s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3.put("a", b"")
    assert set(proxy.regions) == {region}


def test_the_profile_has_the_last_word_in_the_chain(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile mine]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    s3.put("a", b"")
    assert set(proxy.regions) == {"eu-north-1"}


def test_a_bucket_that_wants_checksums_is_said_with_the_remedy(s3: Store, proxy: FaultProxy) -> None:
    wants = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    proxy.faults = [Fault("PUT", status=400, code="InvalidRequest", message=wants)]
    assert "set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported" in refused(lambda: s3.put("a", b""))


def test_a_forked_process_makes_its_own_connection(s3: Store, proxy: FaultProxy) -> None:
    s3.put("a", b"one")
    s3.get("a")
    mine = set(proxy.ports)
    child = os.fork()
    if child == 0:
        os._exit(0 if s3.get("a") == b"one" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(mine) == 1
    assert proxy.ports[-1] not in mine
    s3.get("a")
    assert proxy.ports[-1] in mine
