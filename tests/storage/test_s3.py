"""S3 with simulated faults of the network and the server. The requests go to a server on this machine."""

import hashlib
import os
import socket
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from saltray.errors import IntegrityError
from saltray.storage.base import Store
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, FOREVER, Fault, FaultProxy, refused

PART_BYTES = 5 << 20


@pytest.mark.parametrize("action", ["reset", "lose reply"])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_lost_requests_and_replies_are_retried(method: str, action: str, s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method, action=action, times=2)]
    s3.put("a", b"one")
    assert s3.exists("a")
    assert s3.get("a") == b"one"
    assert s3.folders() == []
    s3.delete("a")
    assert not s3.exists("a")
    assert proxy.faults[0].times == 0


def test_put_new_succeeds_although_the_reply_was_lost(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", action="lose reply", times=2)]
    assert s3.put_new("a", b"one") is True
    assert s3.put_new("a", b"one") is False


def test_put_new_after_a_lost_reply_does_not_claim_an_equal_object(s3: Store, proxy: FaultProxy) -> None:
    s3.put_new("a", b"one")
    proxy.faults = [Fault("PUT", action="lose reply", times=1)]
    assert s3.put_new("a", b"one") is False


@pytest.fixture
def big_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A file of three parts (of the smallest size that S3 allows), and its digest."""
    monkeypatch.setattr("saltray.storage.s3.PART_BYTES", PART_BYTES)
    data = bytes(range(256)) * (2 * PART_BYTES // 256 + 1)
    path = tmp_path / "big"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "partNumber=2", status=500, times=2),
        Fault("PUT", "partNumber=1", action="lose reply", times=1),
        Fault("POST", "?uploads", status=503, times=2),
        Fault("POST", "uploadId=", action="lose reply", times=1),
        Fault("POST", "uploadId=", status=404, code="NoSuchUpload"),
        Fault("HEAD", status=503, times=2),
    ],
    ids=lambda fault: f"{fault.method} {fault.text} {fault.status or fault.action}",
)
def test_a_faulty_upload_is_retried(fault: Fault, s3: Store, proxy: FaultProxy, big_file: tuple[Path, str]) -> None:
    path, digest = big_file
    proxy.faults = [fault]
    assert s3.put_file("big", path) == digest
    assert fault.times == 0
    assert hashlib.sha256(s3.get("big")).hexdigest() == digest


@pytest.mark.parametrize(("method", "text"), [("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_a_failed_upload_leaves_no_object_and_no_parts(
    method: str, text: str, impatient_s3: Store, proxy: FaultProxy, big_file: tuple[Path, str]
) -> None:
    path, _ = big_file
    proxy.faults = [Fault(method, text, status=500, times=FOREVER)]
    assert "gave up" in refused(lambda: impatient_s3.put_file("big", path))
    assert not impatient_s3.exists("big")
    uploads = boto3.session.Session().client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [upload["Key"] for upload in uploads if f"s3://{BUCKET}/{upload['Key']}" == f"{impatient_s3.uri}/big"] == []


def test_an_upload_that_the_server_did_not_store_is_detected(s3: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"new!")
    proxy.faults = [Fault("PUT", action="ignore")]
    assert "does not hold the 4 bytes" in refused(lambda: s3.put_file("a", path), IntegrityError)
    s3.put("a", b"old!")
    proxy.faults = [Fault("PUT", action="ignore")]
    assert "does not hold the 4 bytes" in refused(lambda: s3.put_file("a", path), IntegrityError)


def test_a_truncated_reply_is_read_again(s3: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    s3.put("a", b"0123456789")
    proxy.faults = [Fault("GET", "/a", action="truncate", times=2)]
    assert s3.get("a") == b"0123456789"
    proxy.faults = [Fault("GET", "/a", action="truncate", times=2)]
    s3.get_file("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


@pytest.mark.parametrize("action", ["truncate", "break off", "unframed"])
@pytest.mark.parametrize("size", [2, 1 << 20, (3 << 20) + 1])
def test_a_body_that_breaks_off_is_read_again_from_its_start(
    action: str, size: int, s3: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    data = os.urandom(size)
    s3.put("a", data)
    fault = Fault("GET", "/a", action=action, abrupt=action == "break off", times=1)
    proxy.faults = [fault]
    assert s3.get("a") == data
    proxy.faults = [fault := replace(fault, times=1)]
    s3.get_file("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert fault.times == 0


@pytest.mark.parametrize("action", ["break off", "truncate"])
def test_a_reply_that_says_what_is_wrong_and_breaks_off_is_retried(action: str, s3: Store, proxy: FaultProxy) -> None:
    """botocore lets urllib3's own exception through here."""
    s3.put("a", b"1")
    for method in ("GET", "PUT", "DELETE"):
        proxy.faults.append(Fault(method, status=503, action=action, abrupt=True, times=2))
    s3.put("b", b"1")
    assert s3.get("a") == b"1"
    assert [entry.key for entry in s3.list()] == ["a", "b"]
    s3.delete("a")
    assert [fault.times for fault in proxy.faults] == [0] * 3


PORTAL = b"<html><head><title>Log in</title></head><body>to use this network</body></html>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PORTAL,
        b"\xff\xfe\0",
        b"<ListBucketResult>",
        b"<ListBucketResult/>",
        b"{}",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>perhaps</IsTruncated><KeyCount>x</KeyCount></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>",
    ],
)
def test_a_reply_that_is_not_s3s_is_retried_and_then_named(body: bytes, s3: Store, proxy: FaultProxy) -> None:
    """As of a captive portal or a broken proxy, with status 200."""
    s3.put("a", b"1")
    proxy.faults = [Fault(method, status=200, body=body, times=2) for method in ("PUT", "GET", "HEAD", "DELETE")]
    s3.put("b", b"1")
    assert s3.get("a") == b"1"
    assert s3.entry("a").size == 1
    proxy.faults = [Fault("GET", "list-type", status=200, body=body, times=2)]
    assert [entry.key for entry in s3.list()] == ["a", "b"]
    s3.deadline_s = 0.1
    proxy.faults = [Fault(method, status=200, body=body, times=FOREVER) for method in ("PUT", "GET", "HEAD")]
    for call in (lambda: s3.put("c", b""), lambda: s3.get("a"), lambda: s3.entry("a"), lambda: list(s3.list())):
        assert "gave up" in refused(call)


def test_a_reply_that_stays_truncated_leaves_no_file(impatient_s3: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    impatient_s3.put("a", b"0123456789")
    proxy.faults = [Fault("GET", "/a", action="truncate", times=FOREVER)]
    assert "gave up" in refused(lambda: impatient_s3.get_file("a", tmp_path / "copy"))
    assert list(tmp_path.iterdir()) == []


def test_a_listing_over_several_pages_with_faults(s3: Store, proxy: FaultProxy) -> None:
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


def test_a_server_without_create_only_puts_is_refused(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", status=501, code="NotImplemented", times=FOREVER)]
    assert "no create-only puts (If-None-Match)" in refused(lambda: s3.put_new("a", b""))
    proxy.faults = [Fault("PUT", action="unconditional", times=FOREVER)]
    assert "create-only puts (If-None-Match) are ignored" in refused(s3.check_writable)
    assert [path for path in proxy.seen if path.startswith("DELETE")] != []


def test_retries_of_a_dead_endpoint_end_at_the_deadline(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "0.5")
    message = refused(lambda: open_store(f"s3://{BUCKET}").put("a", b""))
    assert "gave up after" in message
    assert "over 0.5 s" in message
    assert str(port) in message


def test_retries_of_a_silent_endpoint_end_at_the_deadline(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "0")
        message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "gave up after 1 attempt over 0 s: Read timeout" in message


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


def test_the_region_of_the_profile_is_the_last_in_the_chain(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile mine]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    s3.put("a", b"")
    assert set(proxy.regions) == {"eu-north-1"}


def test_a_forked_process_has_its_own_connection(s3: Store, proxy: FaultProxy) -> None:
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
