"""What S3's errors mean: which pass by themselves, and what the user can do about the others.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. A HEAD has no body, so there only the HTTP
status is known, which botocore gives as the code.
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
    "BadDigest",  # damaged on the way
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",  # a multipart upload whose completion lost its reply, or that was swept away: upload again
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",  # damaged on the way
}
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
_CREDENTIALS = "renew the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role)"
_RIGHTS = (
    "access is denied; grant these credentials s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and "
    "s3:DeleteObject on its objects"
)
_REMEDIES = {
    "400": "the request is refused; check the credentials' session token, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3",
    "403": f"{_RIGHTS}; if they are, check the secret key and this machine's clock",
    "501": "the server cannot do this",
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "ExpiredToken": f"the session has expired; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the endpoint does not know this access key; {_CREDENTIALS}, or check AWS_ENDPOINT_URL_S3",
    "InvalidToken": f"the session token is not valid; {_CREDENTIALS}",
    "KeyTooLongError": "the key is longer than 1,024 bytes; use shorter names",
    "MissingContentLength": "it takes no trailing checksums; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    "NoSuchBucket": "there is no such bucket; create it, or correct the URI or AWS_ENDPOINT_URL_S3",
    "QuotaExceeded": "the quota is used up; delete what is no longer needed, or raise it",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes off; set it, for instance by NTP",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct AWS_SECRET_ACCESS_KEY or the profile",
}
_OTHER_REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


def code_of(error: ClientError) -> str:
    """S3's error code, or the HTTP status as text where the reply has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """HTTP status of the reply; 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_not_found(error: ClientError) -> bool:
    """Whether the object does not exist (the bucket may not either, which a HEAD cannot tell)."""
    return code_of(error) in _NOT_FOUND


def is_transient(error: Exception) -> bool:
    """Whether an error may pass by itself."""
    if isinstance(error, ClientError):
        return status_of(error) in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODES
    if _is_unknown_host(error) or _is_bad_certificate(error):
        return False
    return isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseParserError)


def explain(where: str, error: Exception) -> StorageError | None:
    """An error of botocore for the user, on one line with its remedy; None if it is not botocore's."""
    if isinstance(error, ClientError):
        return _explain_reply(where, error)
    if isinstance(error, FlexibleChecksumError):
        return IntegrityError(f"{where}: {one_line(error)}, so it is damaged; restore it or write it anew")
    if isinstance(error, BotoCoreError | ResponseParserError):
        return StorageError(f"{where}: {one_line(error)}; {_remedy(error)}")
    return None


def _remedy(error: Exception) -> str:
    if isinstance(error, NoCredentialsError):
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the machine has a role"
    if _is_unknown_host(error):
        return "there is no such host: correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
    if _is_bad_certificate(error):
        return "name the certificates to trust by AWS_CA_BUNDLE"
    return "check the credentials, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3"


def _explain_reply(where: str, error: ClientError) -> StorageError:
    code = code_of(error)
    if code in _NOT_FOUND:
        return NotFoundError(f"{where}: there is no such object; check the name")
    if code in _REMEDIES:
        return StorageError(f"{where}: {code}: {_REMEDIES[code]}")
    if code in _OTHER_REGION:
        return StorageError(f"{where}: {one_line(error)}; set AWS_DEFAULT_REGION to the bucket's region")
    if "x-amz-checksum" in str(error):  # a bucket with Object Lock demands what an older server refuses
        return StorageError(f"{where}: {one_line(error)}; set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported")
    return StorageError(f"{where}: {one_line(error)}; look up {code or status_of(error)} in the store's documentation")


def _is_unknown_host(error: Exception) -> bool:
    if not isinstance(error, EndpointConnectionError):
        return False
    return any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in _causes(error))


def _is_bad_certificate(error: Exception) -> bool:
    return isinstance(error, BotoCoreError) and any(isinstance(e, ssl.SSLCertVerificationError) for e in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, those it was raised from, and those that they carry as arguments, as urllib3's do."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or any(one is e for e in seen):
            continue
        seen.append(one)
        yield one
        waiting += [one.__cause__, one.__context__, *(a for a in one.args if isinstance(a, BaseException))]
