"""The store at a URI."""

import re
from urllib.parse import unquote

from saltray.errors import ConfigError
from saltray.storage.base import Store
from saltray.storage.folder import FolderStore
from saltray.storage.keys import is_key

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
_ACCESS_POINT = re.compile(
    r"(arn:[a-z-]+:s3:[a-z0-9-]*:[0-9]{12}:accesspoint[:/][A-Za-z0-9.-]+"
    r"|arn:[a-z-]+:s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[:/][A-Za-z0-9-]+[:/]accesspoint[:/][A-Za-z0-9-]+)(?:/|$)"
)


def open_store(uri: str) -> Store:
    """The store at a URI: a folder, file:///folder or s3://bucket/prefix. Nothing is read or created yet.

    The bucket may also be the ARN of an access point. S3 credentials, region and endpoint come from boto3's usual chain
    (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 and so on), never from the URI. For a
    bucket that refuses puts without an encryption header, set AWS_SERVER_SIDE_ENCRYPTION to aws:kms, AES256 or
    aws:kms:dsse, and AWS_SSE_KMS_KEY_ID to a key other than the account's own.

    Raises:
        ConfigError: the URI cannot be that of a store.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() == "s3":
        return _open_s3(uri, rest)
    if separator and scheme.lower() == "file" and rest.startswith("/"):
        return FolderStore(unquote(rest))
    if separator or not uri or "\0" in uri:
        raise ConfigError(
            f"store {(scheme + separator if separator else uri)!r} is unsupported; use a folder, file:///folder or s3://bucket/prefix"
        )
    return FolderStore(uri)


def _open_s3(uri: str, rest: str) -> Store:
    if arn := _ACCESS_POINT.match(rest):
        bucket, prefix = arn[1], rest[arn.end() :].rstrip("/")
    else:
        bucket, _, prefix = rest.rstrip("/").partition("/")
    if "@" in bucket:
        raise ConfigError("store s3://…@… holds credentials; set them in the environment or AWS_PROFILE instead")
    if "?" in uri:
        raise ConfigError(f"store {uri!r} holds options; set AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION instead")
    if not (arn or _BUCKET.fullmatch(bucket)) or (prefix and not is_key(prefix)):
        raise ConfigError(
            f"store {uri!r} is not s3://bucket/prefix; use the name of a bucket or the ARN of an access point, and no "
            "empty parts"
        )
    from saltray.storage.s3 import S3Store  # loads boto3, which a process that only uses folders does without

    return S3Store(bucket, prefix)
