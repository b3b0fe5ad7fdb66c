"""Errors of S3: which of them are transient, and messages with a remedy for the others.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. The reply to a HEAD has no body, so botocore
gives the HTTP status as its code.
"""

import builtins
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's own)
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from saltray.errors import IntegrityError, NotFoundError, StorageError, one_line

T = TypeVar("T")

_TRANSIENT_STATUS = {408, 425, 429}
_PERMANENT_STATUS = {501, 505, 507}
"""Of 500 and more; all others there are transient, those that only some servers and proxies know too."""
_TRANSIENT_CODES = {
    "BadDigest",  # corrupted in transit
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",  # a multipart upload that was removed, or completed with the reply lost: upload again
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",  # corrupted in transit
}
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
_CREDENTIALS = "renew the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role)"
_RIGHTS = (
    "access is denied; grant these credentials s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and "
    "s3:DeleteObject on its objects"
)
_ENCRYPT = "and set AWS_SERVER_SIDE_ENCRYPTION if the bucket demands encryption headers"
_DENIED = f"{_RIGHTS}, {_ENCRYPT}"
_REMEDIES = {
    "400": "the request was refused; check the credentials' session token, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3",
    "403": f"{_RIGHTS}; if they have these rights, check the secret key and this machine's clock, {_ENCRYPT}",
    "501": "the server does not support this request; use another store",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "ExpiredToken": f"the session has expired; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the endpoint does not know this access key; {_CREDENTIALS}, or check AWS_ENDPOINT_URL_S3",
    "InvalidToken": f"the session token is invalid; {_CREDENTIALS}",
    "InvalidObjectState": "the object is archived; restore it to a storage class that can be read",
    "KeyTooLongError": "the key is longer than 1,024 bytes; use shorter names",
    "MissingContentLength": "the server rejects trailing checksums; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    "NoSuchBucket": "there is no such bucket; create it, or correct the URI or AWS_ENDPOINT_URL_S3",
    "QuotaExceeded": "the quota is exhausted; delete objects that are no longer needed, or raise the quota",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes off; set it, for instance with NTP",
    "507": "the store is full; free some space there",
    "XMinioStorageFull": "the store is full; free some space there",
    "SignatureDoesNotMatch": "wrong secret key for this access key; correct AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}
"""OpenSSL's reasons when the other side speaks plain HTTP."""


class UnreadableReplyError(Exception):
    """A reply that is not S3's, from a broken proxy or a captive portal for instance."""


class ForeignRedirectError(Exception):
    """A reply that sends the client elsewhere, and not to another region: http to https for instance."""


def stop_at_foreign_redirect(response: Any, **_: Any) -> None:
    """A hook of botocore, which would ask such an endpoint for the bucket's region, and again about that reply.

    Raises:
        ForeignRedirectError: the reply is such a redirect.
    """
    if response is None or not 300 <= response[0].status_code < 400:
        return
    headers = response[0].headers
    if "location" in headers and "x-amz-bucket-region" not in headers:
        raise ForeignRedirectError(f"the endpoint redirects to {headers['location']}")


def read_reply(call: Callable[[], T]) -> T:
    """`call()`, which does no more than to send a request and take the reply apart.

    Raises:
        UnreadableReplyError: the reply lacks what it must have. botocore and the caller meet this as one of many plain
            exceptions.
    """
    try:
        return call()
    except BotoCoreError:  # some are ValueErrors too
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReplyError(f"the reply is not S3's ({type(error).__name__}: {one_line(error)})") from error


def code_of(error: ClientError) -> str:
    """S3's error code, or the HTTP status as text if the reply has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """HTTP status of the reply; 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_not_found(error: ClientError) -> bool:
    """Whether the object does not exist. For a HEAD, the bucket may be missing instead."""
    return code_of(error) in _NOT_FOUND


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed after this error."""
    if isinstance(error, ClientError):
        status = status_of(error)
        busy = status in _TRANSIENT_STATUS or (status >= 500 and status not in _PERMANENT_STATUS)
        return busy or code_of(error) in _TRANSIENT_CODES
    if _is_unknown_host(error) or _is_bad_certificate(error) or _is_not_tls(error):
        return False
    return isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError) or _is_broken_reply(error)


def _is_broken_reply(error: Exception) -> bool:
    """Whether a reply broke off or is unreadable: botocore wraps most of what urllib3 raises then, but not all."""
    network = ResponseParserError | UnreadableReplyError | HTTPError | http.client.HTTPException
    return isinstance(error, network | builtins.ConnectionError | TimeoutError | ssl.SSLError)


def explain(where: str, error: Exception) -> StorageError | None:
    """An error of botocore as a message with its remedy on one line; None for any other exception."""
    if isinstance(error, ClientError):
        return _explain_reply(where, error)
    if isinstance(error, FlexibleChecksumError):
        return IntegrityError(f"{where}: {one_line(error)}, so it is corrupted; restore it or write it again")
    if isinstance(error, ForeignRedirectError):
        return StorageError(f"{where}: {error}; correct AWS_ENDPOINT_URL_S3")
    if isinstance(error, BotoCoreError) or _is_broken_reply(error):
        return StorageError(f"{where}: {one_line(error)}; {_remedy(error)}")
    return None


def _remedy(error: Exception) -> str:
    if isinstance(error, NoCredentialsError):
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the machine has a role"
    if _is_unknown_host(error):
        return "there is no such host; correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
    if _is_bad_certificate(error):
        return "set AWS_CA_BUNDLE to a file with the certificates to trust"
    if _is_not_tls(error):
        return "the endpoint does not speak TLS; start AWS_ENDPOINT_URL_S3 with http://"
    return "check the credentials, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3"


def _explain_reply(where: str, error: ClientError) -> StorageError:
    code = code_of(error)
    if code in _NOT_FOUND:
        return NotFoundError(f"{where}: there is no such object; check the name")
    if code in _REMEDIES:
        return StorageError(f"{where}: {code}: {_REMEDIES[code]}")
    if code in _OTHER_REGION or 300 <= status_of(error) < 400:
        return StorageError(f"{where}: {one_line(error)}; set AWS_DEFAULT_REGION to the bucket's region")
    if "x-amz-checksum" in str(error):  # a bucket with Object Lock requires the checksums that older servers reject
        return StorageError(f"{where}: {one_line(error)}; set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported")
    return StorageError(f"{where}: {one_line(error)}; look up {code or status_of(error)} in the store's documentation")


def _is_unknown_host(error: Exception) -> bool:
    if not isinstance(error, EndpointConnectionError):
        return False
    return any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in _causes(error))


def _is_bad_certificate(error: Exception) -> bool:
    return any(isinstance(e, ssl.SSLCertVerificationError) for e in _causes(error))


def _is_not_tls(error: Exception) -> bool:
    return any(isinstance(e, ssl.SSLError) and e.reason in _NOT_TLS for e in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all its causes, including those that exceptions of urllib3 carry as arguments."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or any(current is e for e in seen):
            continue
        seen.append(current)
        yield current
        pending += [current.__cause__, current.__context__, *(a for a in current.args if isinstance(a, BaseException))]
