"""Errors of S3: which of them are transient, and messages with a remedy for the others.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. The reply to a HEAD has no body, so botocore
gives the HTTP status as its code.
"""

import socket
import ssl
from collections.abc import Iterator

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

from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.storage.retry import one_line

_TRANSIENT_STATUS = {429, 500, 502, 503, 504}
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
_REMEDIES = {
    "400": "the request was refused; check the credentials' session token, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3",
    "403": f"{_RIGHTS}; if they have these rights, check the secret key and this machine's clock",
    "501": "the server does not support this request; use another store",
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "ExpiredToken": f"the session has expired; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the endpoint does not know this access key; {_CREDENTIALS}, or check AWS_ENDPOINT_URL_S3",
    "InvalidToken": f"the session token is invalid; {_CREDENTIALS}",
    "KeyTooLongError": "the key is longer than 1,024 bytes; use shorter names",
    "MissingContentLength": "the server rejects trailing checksums; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    "NoSuchBucket": "there is no such bucket; create it, or correct the URI or AWS_ENDPOINT_URL_S3",
    "QuotaExceeded": "the quota is exhausted; delete objects that are no longer needed, or raise the quota",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes off; set it, for instance with NTP",
    "SignatureDoesNotMatch": "wrong secret key for this access key; correct AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
}
_OTHER_REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


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
        return status_of(error) in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODES
    if _is_unknown_host(error) or _is_bad_certificate(error):
        return False
    return isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseParserError)


def explain(where: str, error: Exception) -> StorageError | None:
    """An error of botocore as a message with its remedy on one line; None for any other exception."""
    if isinstance(error, ClientError):
        return _explain_reply(where, error)
    if isinstance(error, FlexibleChecksumError):
        return IntegrityError(f"{where}: {one_line(error)}, so it is corrupted; restore it or write it again")
    if isinstance(error, BotoCoreError | ResponseParserError):
        return StorageError(f"{where}: {one_line(error)}; {_remedy(error)}")
    return None


def _remedy(error: Exception) -> str:
    if isinstance(error, NoCredentialsError):
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the machine has a role"
    if _is_unknown_host(error):
        return "there is no such host; correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
    if _is_bad_certificate(error):
        return "set AWS_CA_BUNDLE to a file with the certificates to trust"
    return "check the credentials, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3"


def _explain_reply(where: str, error: ClientError) -> StorageError:
    code = code_of(error)
    if code in _NOT_FOUND:
        return NotFoundError(f"{where}: there is no such object; check the name")
    if code in _REMEDIES:
        return StorageError(f"{where}: {code}: {_REMEDIES[code]}")
    if code in _OTHER_REGION:
        return StorageError(f"{where}: {one_line(error)}; set AWS_DEFAULT_REGION to the bucket's region")
    if "x-amz-checksum" in str(error):  # a bucket with Object Lock requires the checksums that older servers reject
        return StorageError(f"{where}: {one_line(error)}; set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported")
    return StorageError(f"{where}: {one_line(error)}; look up {code or status_of(error)} in the store's documentation")


def _is_unknown_host(error: Exception) -> bool:
    if not isinstance(error, EndpointConnectionError):
        return False
    return any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in _causes(error))


def _is_bad_certificate(error: Exception) -> bool:
    return isinstance(error, BotoCoreError) and any(isinstance(e, ssl.SSLCertVerificationError) for e in _causes(error))


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
