"""S3 and compatible servers as an object store, through boto3: pyarrow's client may report a lost write as done."""

import builtins
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.configprovider import ConfigChainFactory
from botocore.exceptions import ClientError
from botocore.loaders import create_loader

from saltray.errors import IntegrityError, StorageError
from saltray.storage.base import OVERWRITE_REMEDY, Entry, Opened, Store
from saltray.storage.files import CHUNK_BYTES, TEMP_PREFIX, sha256_of
from saltray.storage.keys import check_key
from saltray.storage.retry import one_line
from saltray.storage.s3_errors import explain, is_not_found, is_transient, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
    )

PART_BYTES = 16 << 20
"""Larger files are uploaded in parts of this size."""
SHA256, WRITER = "saltray-sha256", "saltray-writer"
"""Metadata of an object: its digest in hex, and for create-only puts a token that is unique to the call."""
CONNECT_S, READ_S = 10.0, 60.0
_LOADER = create_loader()  # caches the description of S3: a second client then takes 20 ms, not 120


class _LazyClient:
    """The boto3 client of this process, created on first use. A forked process creates its own with own sockets."""

    def __init__(self, deadline_s: float) -> None:
        self._config = Config(
            connect_timeout=min(CONNECT_S, max(deadline_s, 1.0)),
            read_timeout=min(READ_S, max(deadline_s, 1.0)),
            retries={"total_max_attempts": 2, "mode": "standard"},  # so that a failed part does not restart the file
            max_pool_connections=32,
            tcp_keepalive=True,
        )
        self._created: tuple[int, S3Client] | None = None

    def __call__(self) -> "S3Client":
        if self._created is None or self._created[0] != os.getpid():
            try:
                client = boto3.session.Session(botocore_session=_session()).client("s3", config=self._config)
            except ValueError as error:  # a malformed AWS_ENDPOINT_URL_S3 or region
                raise StorageError(
                    f"S3: {one_line(error)}; correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
                ) from error
            self._created = os.getpid(), client
        return self._created[1]


def _session() -> botocore.session.Session:
    """A session that reads the environment and ~/.aws as botocore does, but for two settings."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    chain, settings = ConfigChainFactory(session), session.get_component("config_store")
    # Unlike AWS's other clients, boto3 ignores AWS_REGION.
    regions = chain.create_config_chain("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], "region")
    settings.set_config_provider("region", regions)
    # The signature already covers the body, and older servers reject trailing checksums.
    name = "request_checksum_calculation"
    checksums = chain.create_config_chain(name, f"AWS_{name.upper()}", name, default="when_required")
    settings.set_config_provider(name, checksums)
    return session


class S3Store(Store):
    """Objects of a bucket below a prefix.

    Args:
        bucket: the bucket's name.
        prefix: key prefix without leading or trailing '/'; empty for the whole bucket.
        client: returns the boto3 client; shared with the stores that `sub` returns.
    """

    def __init__(self, bucket: str, prefix: str, client: _LazyClient | None = None) -> None:
        super().__init__(f"s3://{bucket}/{prefix}".rstrip("/"))
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._client = client or _LazyClient(self.deadline_s)

    def __reduce__(self) -> tuple[type["S3Store"], tuple[str, str]]:
        return S3Store, (self._bucket, self._root.removesuffix("/"))

    def sub(self, prefix: str) -> "S3Store":
        return S3Store(self._bucket, self._name(prefix), self._client)

    def put(self, key: str, data: bytes) -> None:
        name, metadata = self._name(key), {SHA256: hashlib.sha256(data).hexdigest()}
        self._attempt(
            key, lambda: self._client().put_object(Bucket=self._bucket, Key=name, Body=data, Metadata=metadata)
        )

    def put_new(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        metadata = {SHA256: hashlib.sha256(data).hexdigest(), WRITER: uuid.uuid4().hex}

        def create() -> bool:
            try:
                self._client().put_object(Bucket=self._bucket, Key=name, Body=data, Metadata=metadata, IfNoneMatch="*")
            except ClientError as error:
                if status_of(error) == 501:
                    raise StorageError(
                        f"{self._where(key)}: the server has no create-only puts (If-None-Match), {OVERWRITE_REMEDY}"
                    ) from error
                if status_of(error) != 412:
                    raise
                # The key exists: from another writer, or from our own attempt whose reply was lost.
                head = self._head(name)
                return head is not None and metadata.items() <= _metadata(head).items()
            return True

        return self._attempt(key, create)

    def put_file(self, key: str, path: Path) -> str:
        name = self._name(key)

        def upload() -> str:
            digest, size = sha256_of(path), path.stat().st_size
            parts = TransferConfig(PART_BYTES, multipart_chunksize=PART_BYTES, preferred_transfer_client="classic")
            with path.open("rb") as file:
                self._client().upload_fileobj(
                    file, self._bucket, name, ExtraArgs={"Metadata": {SHA256: digest}}, Config=parts
                )
            head = self._head(name)
            if head is None or (head["ContentLength"], _metadata(head).get(SHA256)) != (size, digest):
                raise IntegrityError(
                    f"{self._where(key)}: the store does not hold the {size:,} bytes just written from {path}; check "
                    "that no other process writes to either, and retry"
                )
            return digest

        return self._attempt(key, upload)

    def entry(self, key: str) -> Entry:
        name = self._name(key)

        def read() -> Entry:
            head = self._head(name)
            if head is None:
                # The reply to a HEAD is the same for a missing bucket. This request raises for one.
                self._client().list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
                raise self._not_found(key)
            return Entry(key, head["ContentLength"], head["ETag"].strip('"'))

        return self._attempt(key, read)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._listed(self._prefix(prefix))

    def folders(self, prefix: str = "") -> builtins.list[str]:
        start = self._prefix(prefix)
        found = [item["Prefix"] for page in self._pages(start, "/") for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(start).removesuffix("/") for name in found)

    def delete(self, key: str) -> None:
        self._delete(self._name(key))

    def delete_prefix(self, prefix: str) -> None:
        # One by one: not every server supports bulk deletion, and there are few objects.
        start = self._name(prefix) + "/"
        for name in [item["Key"] for page in self._pages(start) for item in page.get("Contents", [])]:
            self._delete(name)

    def _open(self, key: str) -> Opened:
        reply = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
        return Opened(reply["Body"].iter_chunks(CHUNK_BYTES), _metadata(reply).get(SHA256))

    def _is_transient(self, error: Exception) -> bool:
        return is_transient(error)

    def _explain(self, where: str, error: Exception) -> StorageError | None:
        # botocore first: some of its errors are OSErrors too.
        return explain(where, error) or super()._explain(where, error)

    def _name(self, key: str) -> str:
        """An object's full name in the bucket."""
        return self._root + check_key(key)

    def _prefix(self, prefix: str) -> str:
        """The start of all full names below a folder-like prefix."""
        return f"{self._name(prefix)}/" if prefix else self._root

    def _head(self, name: str) -> "HeadObjectOutputTypeDef | None":
        """An object's header; None if it does not exist."""
        try:
            return self._client().head_object(Bucket=self._bucket, Key=name)
        except ClientError as error:
            if is_not_found(error):
                return None
            raise

    def _delete(self, name: str) -> None:
        key = name.removeprefix(self._root)
        self._attempt(key, lambda: self._client().delete_object(Bucket=self._bucket, Key=name))

    def _listed(self, start: str) -> Iterator[Entry]:
        for page in self._pages(start):
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._root)
                # Some S3 browsers create an object with a trailing '/' for an empty folder.
                if not key.endswith("/") and not key.rpartition("/")[2].startswith(TEMP_PREFIX):
                    yield Entry(key, item["Size"], item["ETag"].strip('"'))

    def _pages(self, start: str, delimiter: str = "") -> "Iterator[ListObjectsV2OutputTypeDef]":
        key = start.removeprefix(self._root).removesuffix("/")
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": start, "Delimiter": delimiter}
        while True:
            page = self._attempt(key, lambda: self._client().list_objects_v2(**request))
            yield page
            if not page["IsTruncated"]:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]


def _metadata(reply: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef") -> dict[str, str]:
    """An object's metadata by lower-case name: some servers return capitalised names."""
    return {name.lower(): value for name, value in reply["Metadata"].items()}
