"""S3 on a real server, which checks signatures, clocks and checksums."""

import datetime as dt
import hashlib
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from botocore import auth
from ceph import Ceph

from saltray.errors import StorageError
from saltray.storage.base import Store
from saltray.storage.s3 import PART_BYTES
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, Fault, FaultProxy, refused
from .store_calls import calls_with_answers


@pytest.fixture
def s3(ceph_proxy: FaultProxy) -> Store:
    """An empty store on the real server, behind the proxy, with the default deadline."""
    return open_store(f"s3://{BUCKET}/{uuid.uuid4()}")


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """A file of three parts, of which the last is short."""
    path = tmp_path / "big"
    path.write_bytes(bytes(range(251)) * (2 * PART_BYTES // 251 + 1))
    return path


def test_a_wrong_secret_key_is_explained(
    s3: Store, ceph: Ceph, ceph_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = f"wrong-{ceph.secret_key}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    for call in calls_with_answers(s3, tmp_path):
        message = refused(call, at_once_by=ceph_proxy)
        assert "SignatureDoesNotMatch: wrong secret key for this access key; correct" in message
        assert ceph.secret_key not in message
    message = refused(lambda: s3.exists("a"), at_once_by=ceph_proxy)
    assert "if they have these rights, check the secret key and this machine's clock" in message
    assert ceph.secret_key not in message


def test_an_unknown_access_key_is_explained(
    s3: Store, ceph: Ceph, ceph_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    for call in calls_with_answers(s3, tmp_path):
        message = refused(call, at_once_by=ceph_proxy)
        assert "InvalidAccessKeyId: the endpoint does not know this access key; renew the credentials" in message
        assert ceph.secret_key not in message


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_wrong_clock_is_explained(
    minutes: int, s3: Store, ceph_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> dt.datetime:
        return right() + dt.timedelta(minutes=minutes)

    right = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", wrong)  # the time of a request and its signature
    for call in calls_with_answers(s3, tmp_path):
        message = refused(call, at_once_by=ceph_proxy)
        assert "RequestTimeTooSkewed: this machine's clock is more than 15 minutes off; set it" in message
    assert "check the secret key and this machine's clock" in refused(lambda: s3.exists("a"), at_once_by=ceph_proxy)
    monkeypatch.setattr(auth, "get_current_datetime", right)
    s3.check_writable()


def test_a_missing_bucket(ceph: Ceph) -> None:
    store = open_store("s3://saltray-no-such-bucket/x")
    for call in (lambda: store.exists("a"), lambda: store.get("a"), store.check_writable):
        with pytest.raises(StorageError, match="NoSuchBucket: there is no such bucket; create it"):
            call()


def test_a_large_file_is_uploaded_in_parts(s3: Store, big_file: Path, tmp_path: Path) -> None:
    digest = s3.put_file("big", big_file)
    assert s3.entry("big").tag.endswith("-3")
    s3.get_file("big", tmp_path / "copy")
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == digest


def test_a_body_corrupted_in_transit_is_sent_again(
    s3: Store, ceph_proxy: FaultProxy, big_file: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"from a file")
    for call, target in (
        (lambda: s3.put("put", b"1"), ""),
        (lambda: s3.put_new("new", b"2"), ""),
        (lambda: s3.put_file("small", small), ""),
        (lambda: s3.put_file("big", big_file), "partNumber=2"),
    ):
        fault = Fault("PUT", target, action="corrupt", times=2)
        ceph_proxy.faults = [fault]
        call()
        assert fault.times == 0
    assert [s3.get(key) for key in ("put", "new", "small")] == [b"1", b"2", b"from a file"]
    assert s3.get("big") == big_file.read_bytes()
    assert s3.put_new("new", b"2") is False


def test_requests_to_a_stopped_server_succeed_once_it_is_back(ceph: Ceph, tmp_path: Path) -> None:
    store, file = open_store(f"s3://{BUCKET}/{uuid.uuid4()}"), tmp_path / "file"
    store.put("old", b"0")
    file.write_bytes(b"3")
    ceph.kill_gateway()
    try:
        with ThreadPoolExecutor() as pool:
            requests: list[Future[Any]] = [
                pool.submit(store.put, "put", b"1"),
                pool.submit(store.put_new, "new", b"2"),
                pool.submit(store.put_file, "file", file),
                pool.submit(store.get, "old"),
                pool.submit(store.exists, "old"),
                pool.submit(store.folders),
            ]
            sleep(0.5)
            assert not any(request.done() for request in requests)
            ceph.start_gateway()
            results = [request.result() for request in requests]
    finally:
        ceph.start_gateway()
    assert results == [None, True, hashlib.sha256(b"3").hexdigest(), b"0", True, []]
    assert [store.get(key) for key in ("put", "new", "file")] == [b"1", b"2", b"3"]


def test_a_server_killed_during_an_upload(s3: Store, ceph: Ceph, ceph_proxy: FaultProxy, big_file: Path) -> None:
    ceph_proxy.faults = [Fault("PUT", "partNumber=2", before=ceph.kill_gateway)]
    try:
        with ThreadPoolExecutor() as pool:
            upload = pool.submit(s3.put_file, "big", big_file)
            while sum(request.endswith("?uploads") for request in ceph_proxy.seen) < 2:  # boto3 does not retry any more
                assert not upload.done()
                sleep(0.01)
            ceph.start_gateway()
            digest = upload.result()
    finally:
        ceph.start_gateway()
    assert hashlib.sha256(s3.get("big")).hexdigest() == digest


def test_an_older_server_accepts_puts_over_tls(ceph: Ceph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It rejects trailing checksums, which boto3 sends over TLS by default."""
    file = tmp_path / "file"
    file.write_bytes(b"2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ceph.tls_endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ceph.certificate))
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4()}")
    store.check_writable()
    store.put("put", b"1")
    store.put_file("file", file)
    assert [store.get(key) for key in ("put", "file")] == [b"1", b"2"]
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with pytest.raises(StorageError, match="set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        open_store(store.uri).check_writable()


def test_an_untrusted_certificate_is_explained_at_once(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ceph.tls_endpoint)
    with pytest.raises(StorageError, match="set AWS_CA_BUNDLE to a file with the certificates to trust"):
        open_store(f"s3://{BUCKET}/x").check_writable()
