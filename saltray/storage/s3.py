"""S3 and what speaks its protocol, through boto3 alone: pyarrow's own client may report a lost write as done."""

import builtins
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.configprovider import ConfigChainFactory
from botocore.exceptions import ClientError
from botocore.loaders import create_loader

from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.storage.base import Entry, Opened, Store
from saltray.storage.files import CHUNK_BYTES, TEMP_PREFIX, sha256_of
from saltray.storage.names import check_key
from saltray.storage.retry import one_line
from saltray.storage.s3_errors import explain, is_not_found, is_transient, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef, ListObjectsV2OutputTypeDef

PART_BYTES = 16 << 20
"""Files above this go up in parts of this size."""
SHA256, WRITER = "saltray-sha256", "saltray-writer"
"""Metadata of an object: its digest in hex, and for create-only puts a token of the one call that wrote it."""
CONNECT_S, READ_S = 10.0, 60.0
_LOADER = create_loader()  # reads S3's description once: each further client then takes 20 ms, not 120


class _LazyClient:
    """The boto3 client of this process, made on first use and never shared across a fork: its sockets would be."""

    def __init__(self, deadline_s: float) -> None:
        self._config = Config(
            connect_timeout=min(CONNECT_S, max(deadline_s, 1.0)),
            read_timeout=min(READ_S, max(deadline_s, 1.0)),
            retries={"total_max_attempts": 2, "mode": "standard"},  # so that one bad part does not restart a file
            max_pool_connections=32,
            tcp_keepalive=True,
        )
        self._made: tuple[int, S3Client] | None = None

    def __call__(self) -> "S3Client":
        if self._made is None or self._made[0] != os.getpid():
            try:
                client = boto3.session.Session(botocore_session=_session()).client("s3", config=self._config)
            except ValueError as error:  # a malformed AWS_ENDPOINT_URL_S3 or region
                raise StorageError(
                    f"S3: {one_line(error)}; correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
                ) from error
            self._made = os.getpid(), client
        return self._made[1]


def _session() -> botocore.session.Session:
    """What reads the environment and ~/.aws, as botocore does but for two settings."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    chain, settings = ConfigChainFactory(session), session.get_component("config_store")
    # boto3 alone among AWS's clients does not know AWS_REGION.
    regions = chain.create_config_chain("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], "region")
    settings.set_config_provider("region", regions)
    # The signature covers the body already, and an older server refuses a checksum that trails it.
    name = "request_checksum_calculation"
    checksums = chain.create_config_chain(name, f"AWS_{name.upper()}", name, default="when_required")
    settings.set_config_provider(name, checksums)
    return session


class S3Store(Store):
    """Objects of a bucket below a prefix.

    Args:
        bucket: the bucket's name.
        prefix: key prefix without a '/' at its ends; empty for the whole bucket.
        client: what gives the boto3 client; shared with the stores rooted deeper.
    """

    def __init__(self, bucket: str, prefix: str, client: _LazyClient | None = None) -> None:
        super().__init__(f"s3://{bucket}/{prefix}".rstrip("/"))
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._client = client or _LazyClient(self.deadline_s)

    def sub(self, prefix: str) -> Store:
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
                        f"{self._where(key)}: the server has no create-only puts (If-None-Match), so two runs could "
                        "overwrite each other; use AWS S3, another store with conditional writes, or a folder"
                    ) from error
                if status_of(error) != 412:
                    raise
                # Taken: by another, or by ourselves in a try whose reply got lost.
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
                    f"{self._where(key)}: the store does not hold the {size:,} bytes just written from {path}; see "
                    "that nothing else writes to either, and try again"
                )
            return digest

        return self._attempt(key, upload)

    def entry(self, key: str) -> Entry:
        name = self._name(key)

        def look() -> Entry:
            head = self._head(name)
            if head is None:
                # A HEAD does not tell a missing bucket from a missing object.
                self._client().list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
                raise NotFoundError(f"{self._where(key)}: there is no such object; check the name")
            return Entry(key, head["ContentLength"], head["ETag"].strip('"'))

        return self._attempt(key, look)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._listed(self._prefix(prefix))

    def folders(self, prefix: str = "") -> builtins.list[str]:
        start = self._prefix(prefix)
        found = [item["Prefix"] for page in self._pages(start, "/") for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(start).removesuffix("/") for name in found)

    def delete(self, key: str) -> None:
        self._delete(self._name(key))

    def delete_prefix(self, prefix: str) -> None:
        # One by one: not every server has the bulk request, and what is deleted here is few.
        start = self._name(prefix) + "/"
        for name in [item["Key"] for page in self._pages(start) for item in page.get("Contents", [])]:
            self._delete(name)

    def _open(self, key: str) -> Opened:
        reply = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
        return Opened(reply["Body"].iter_chunks(CHUNK_BYTES), _metadata(reply).get(SHA256))

    def _is_transient(self, error: Exception) -> bool:
        return is_transient(error)

    def _explain(self, where: str, error: Exception) -> StorageError | None:
        # Some of botocore's errors are OSErrors as well, so its own come first.
        return explain(where, error) or super()._explain(where, error)

    def _name(self, key: str) -> str:
        """A key's full name in the bucket."""
        return self._root + check_key(key)

    def _prefix(self, prefix: str) -> str:
        """What the full names below a folder-like prefix begin with."""
        return f"{self._name(prefix)}/" if prefix else self._root

    def _head(self, name: str) -> "HeadObjectOutputTypeDef | None":
        """What the server says about an object; None if there is none."""
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
                # A name that ends with '/' is only a browser's mark of an empty folder.
                if not key.endswith("/") and not key.rpartition("/")[2].startswith(TEMP_PREFIX):
                    yield Entry(key, item["Size"], item["ETag"].strip('"'))

    def _pages(self, start: str, delimiter: str = "") -> "Iterator[ListObjectsV2OutputTypeDef]":
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": start, "Delimiter": delimiter}
        while True:
            page = self._page(arguments)
            yield page
            if not page["IsTruncated"]:
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, arguments: dict[str, Any]) -> "ListObjectsV2OutputTypeDef":
        key = arguments["Prefix"].removeprefix(self._root).removesuffix("/")
        return self._attempt(key, lambda: self._client().list_objects_v2(**arguments))


def _metadata(reply: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef") -> dict[str, str]:
    """An object's metadata by lower-case name; some servers hand the names back capitalised."""
    return {name.lower(): value for name, value in reply["Metadata"].items()}
