"""What a path or URI of the user's names: a store, an object of one, or a file of this machine.

Every path that saltray is given passes through here, so that a scheme it cannot use is refused, not taken for the name
of a folder.
"""

import os
import re
from pathlib import Path
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
_SCHEME = re.compile(r"(?i:(s3|gs|file|https?):|[a-z][a-z0-9+.-]*:/)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SUPPORTED = "use a path, file:///path or s3://bucket/key"


def open_store(uri: str) -> Store:
    """The store at a URI: a folder, file:///folder or s3://bucket/prefix. Nothing is read or created yet.

    The bucket may also be the ARN of an access point. S3 credentials, region and endpoint come from boto3's usual chain
    (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 and so on), never from the URI. For a
    bucket that refuses puts without an encryption header, set AWS_SERVER_SIDE_ENCRYPTION to aws:kms, AES256 or
    aws:kms:dsse, and AWS_SSE_KMS_KEY_ID to a key other than the account's own.

    Raises:
        ConfigError: the URI cannot be that of a store.
    """
    if not isinstance(uri, str) or not uri:
        raise ConfigError(f"{uri!r} is neither a path nor a URI; {_SUPPORTED}, as text")
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() == "s3":
        return _open_s3(uri, rest)
    if separator and scheme.lower() == "file" and rest.startswith("/"):
        return _open_folder(unquote(rest))
    if separator:
        raise ConfigError(f"{scheme + separator!r} is unsupported; {_SUPPORTED}")
    if _SCHEME.match(uri):
        start = uri[: uri.index(":") + 1]
        raise ConfigError(
            f"{start}... is neither a path nor a URI: a URI begins with {start}//, which a pathlib.Path shortens; "
            f"{_SUPPORTED}, or ./{start} if there is such a folder"
        )
    return _open_folder(uri)


def open_object(uri: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store that holds one object, and the object's key there. Nothing is read or created yet.

    Args:
        uri: a path, file:///path or s3://bucket/key.

    Raises:
        ConfigError: the URI is unsupported, or names a folder or a bucket.
    """
    uri = os.fspath(uri)
    whole = open_store(uri or ".")  # refuses what is no path or URI at all
    cut = uri.rfind("/") + 1
    key = unquote(uri[cut:]) if uri.lower().startswith("file://") else uri[cut:]
    is_root = uri == "~" or (whole.is_remote and whole.uri.count("/") == 2)
    if is_root or not is_key(key) or "/" in key:
        raise ConfigError(f"{uri!r} does not name a file; add its name to the folder")
    return open_store(uri[:cut] or "."), key


def local_path(uri: str | os.PathLike[str]) -> Path:
    """The absolute path of a file or folder of this machine.

    Args:
        uri: a path or file:///path.

    Raises:
        ConfigError: it is of another kind.
    """
    uri = os.fspath(uri)
    store = open_store(uri)
    if store.is_remote:
        raise ConfigError(f"{uri} is not on this machine; use a path")
    return Path(store.uri)


def _open_folder(path: str) -> Store:
    if _CONTROL.search(path):
        raise ConfigError(f"{path!r} has control characters; choose another path")
    if os.path.expanduser(path).startswith("~"):  # noqa: PTH111
        raise ConfigError(f"{path} begins with the home folder of nobody; use an absolute path, or ./ before it")
    return FolderStore(path)


def _open_s3(uri: str, rest: str) -> Store:
    if arn := _ACCESS_POINT.match(rest):
        bucket, prefix = arn[1], rest[arn.end() :].rstrip("/")
    else:
        bucket, _, prefix = rest.rstrip("/").partition("/")
    if "@" in bucket:
        raise ConfigError("s3://…@… holds credentials; set them in the environment or AWS_PROFILE instead")
    if "?" in uri:
        raise ConfigError(f"{uri!r} holds options; set AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION instead")
    if not (arn or _BUCKET.fullmatch(bucket)) or (prefix and not is_key(prefix)):
        raise ConfigError(
            f"{uri!r} is not s3://bucket/prefix; use the name of a bucket (3 to 63 letters, digits, dots and "
            "hyphens) or the ARN of an access point, and no parts that are empty, '.' or '..'"
        )
    from saltray.storage.s3 import S3Store  # loads boto3, which a process that only uses folders does without

    return S3Store(bucket, prefix)
