"""Errors of S3, in replies of a server on this machine and from botocore itself."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import FlexibleChecksumError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Store
from saltray.storage.s3_errors import explain
from saltray.storage.uri import open_store

from .faulty_s3 import BUCKET, FOREVER, Fault, FaultProxy, refused
from .store_calls import calls_with_answers, store_calls


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
        (408, "Timeout"),
        (520, "Cloudflare"),
    ],
)
def test_transient_replies_are_retried(status: int, code: str, s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("PUT", status=status, code=code, times=3), Fault("GET", status=status, code=code, times=2)]
    assert s3.put_new("a", b"one") is True
    assert s3.get("a") == b"one"
    assert [entry.key for entry in s3.list()] == ["a"]


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "grant these credentials s3:ListBucket"),
        (403, "AllAccessDisabled", "grant these credentials s3:ListBucket"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock is more than 15 minutes off; set it"),
        (400, "ExpiredToken", "renew the credentials"),
        (400, "InvalidToken", "renew the credentials"),
        (400, "KeyTooLongError", "use shorter names"),
        (404, "NoSuchBucket", "create it, or correct the URI"),
        (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's region"),
        (403, "QuotaExceeded", "delete objects that are no longer needed"),
        (403, "InvalidObjectState", "restore it to a storage class"),
        (507, "XMinioStorageFull", "the store is full; free some space"),
        (418, "Teapot", "look up Teapot in the store's documentation"),
    ],
)
def test_other_replies_are_explained_at_once(
    status: int, code: str, remedy: str, s3: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.faults = [Fault(method, status=status, code=code, times=FOREVER) for method in ("PUT", "GET", "DELETE")]
    for call in calls_with_answers(s3, tmp_path):
        message = refused(call, at_once_by=proxy)
        assert message.startswith(s3.uri)
        assert code in message
        assert remedy in message


def test_a_refused_head_is_explained_without_a_body(s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("HEAD", status=403, times=FOREVER)]
    assert "403: access is denied; grant" in refused(lambda: s3.exists("a"), at_once_by=proxy)


def test_a_missing_bucket_is_not_a_missing_object(s3_server: str) -> None:
    store = open_store("s3://saltray-no-such-bucket/x")
    for call in (lambda: store.exists("a"), lambda: store.get("a"), lambda: store.put("a", b""), store.check_writable):
        assert "NoSuchBucket: there is no such bucket; create it" in refused(call)
    assert "no such object" in refused(lambda: open_store(f"s3://{BUCKET}/x").get("a"), NotFoundError)


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
def test_a_wrong_setting_is_explained_at_once(
    variable: str, value: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "gave up" not in message
    assert value in message
    assert "AWS_ENDPOINT_URL_S3" in message


def test_an_unknown_host_is_explained_at_once(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a name server without entries
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minoi.example:9000")
    message = refused(lambda: open_store(f"s3://{BUCKET}").get("a"))
    assert "minoi.example" in message
    assert "there is no such host; correct AWS_ENDPOINT_URL_S3" in message


def test_a_bucket_that_requires_checksums_is_explained(s3: Store, proxy: FaultProxy) -> None:
    text = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    proxy.faults = [Fault("PUT", status=400, code="InvalidRequest", message=text)]
    assert "set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported" in refused(lambda: s3.put("a", b""))


def test_an_exception_of_ours_is_not_taken_for_a_reply(
    s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be retried until the deadline."""
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setattr("saltray.storage.s3.sha256_of", lambda path: {}[path])
    with pytest.raises(KeyError, match="file"):
        s3.put_file("a", tmp_path / "file")
    with pytest.raises(TypeError):
        s3.put("a", "text")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        s3.get_file("a", None)  # type: ignore[arg-type]


def test_a_checksum_that_botocore_rejects_is_an_integrity_error() -> None:
    error = explain("s3://b/k", FlexibleChecksumError(error_msg="Expected checksum a did not match b"))
    assert type(error) is IntegrityError
    assert str(error).startswith("s3://b/k: Expected checksum a did not match b, so it is corrupted; restore it")


def test_an_exception_that_is_not_botocores_is_not_explained() -> None:
    assert explain("s3://b/k", KeyError("a")) is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.integers(200, 599),
    body=st.one_of(st.binary(max_size=200), st.sampled_from([b"<Error><Code>X</Code></Error>", b"<a><b/></a>"])),
    headers=st.dictionaries(
        st.sampled_from(["ETag", "Last-Modified", "x-amz-meta-saltray-sha256", "Content-Type", "x-amz-bucket-region"]),
        st.text("abc019-:% ", max_size=12),
    ),
    action=st.sampled_from(["", "truncate", "break off", "unframed"]),
)
def test_whatever_a_server_answers_is_one_line(
    status: int, body: bytes, headers: dict[str, str], action: str, s3: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    s3.deadline_s = 0
    fault = Fault("", status=status, body=body, headers=headers, action=action, abrupt=True, times=FOREVER)
    proxy.faults = [replace(fault, method=method) for method in ("PUT", "GET", "HEAD", "DELETE", "POST")]
    told = []
    for call in store_calls(s3, tmp_path).values():
        try:
            call()
        except StorageError as error:
            told.append(str(error))
    assert all(line.startswith(s3.uri) and "\n" not in line for line in told)


def test_an_endpoint_that_redirects_is_named(s3: Store, proxy: FaultProxy) -> None:
    """As most servers answer http:// when they want https://."""
    page = b"<html><head><title>301 Moved Permanently</title></head><body/></html>"
    to = {"Location": "https://minio.example/"}
    proxy.faults = [
        Fault(method, status=301, body=page, headers=to, times=FOREVER) for method in ("GET", "PUT", "HEAD")
    ]
    for call in (lambda: s3.put("a", b""), lambda: s3.get("a"), lambda: s3.exists("a"), lambda: list(s3.list())):
        assert "the endpoint redirects to https://minio.example/; correct AWS_ENDPOINT_URL_S3" in refused(call)


@pytest.mark.parametrize("status", [301, 307])
def test_a_bucket_of_another_region_without_its_name_is_explained(status: int, s3: Store, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(method, status=status, code="PermanentRedirect", times=FOREVER) for method in ("GET", "PUT")]
    for call in (lambda: s3.put("a", b""), lambda: s3.get("a"), lambda: list(s3.list())):
        assert "set AWS_DEFAULT_REGION to the bucket's region" in refused(call)


def test_an_endpoint_without_tls_is_explained_at_once(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint.replace("http:", "https:"))
    message = refused(lambda: open_store(s3.uri).get("a"))
    assert "gave up" not in message
    assert "start AWS_ENDPOINT_URL_S3 with http://" in message
