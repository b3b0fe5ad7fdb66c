"""What may name a store and an object."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from saltray.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from saltray.storage.base import Store

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


def open_store(uri: str) -> "Store":
    """The store at a URI: a folder, file:///folder or s3://bucket/prefix. Nothing is touched yet.

    S3 credentials, region and endpoint come from the usual chain of the environment, such as AWS_PROFILE,
    AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3, never from the URI.

    Raises:
        ConfigError: the URI cannot be that of a store.
    """
    from saltray.storage.folder import FolderStore

    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() == "s3":
        return _open_s3(uri, rest)
    if separator and scheme.lower() == "file" and rest.startswith("/"):
        return FolderStore(unquote(rest))
    if separator or not uri:
        raise ConfigError(f"store {scheme + separator!r} is none; use a folder, file:///folder or s3://bucket/prefix")
    return FolderStore(uri)


def _open_s3(uri: str, rest: str) -> "Store":
    from saltray.storage.s3 import S3Store

    bucket, _, prefix = rest.rstrip("/").partition("/")
    if "@" in bucket:
        raise ConfigError("store s3://…@… holds credentials; give them by the environment or AWS_PROFILE instead")
    if "?" in uri:
        raise ConfigError(f"store {uri!r} holds options; set AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION instead")
    if not BUCKET.fullmatch(bucket) or (prefix and not _is_key(prefix)):
        raise ConfigError(f"store {uri!r} is no s3://bucket/prefix; use a plain bucket name and no empty parts")
    return S3Store(bucket, prefix)


def check_key(key: str) -> str:
    """Return `key` if it may name an object.

    Raises:
        StorageError: it is empty or absolute, or has empty parts, '.', '..' or control characters.
    """
    if not _is_key(key):
        raise StorageError(f"{key!r} is no object key; use relative names parted by '/', without '.' and '..'")
    return key


def _is_key(key: str) -> bool:
    return key.isprintable() and not any(part in ("", ".", "..") for part in key.split("/"))
