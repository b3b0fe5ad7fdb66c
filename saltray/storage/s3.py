"""S3 and compatible servers as an object store, through boto3: pyarrow's client may report a lost write as done."""

import builtins
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from saltray.errors import IntegrityError, StorageError
from saltray.storage.base import OVERWRITE_REMEDY, Entry, Opened, Store
from saltray.storage.files import CHUNK_BYTES, TEMP_PREFIX, sha256_of
from saltray.storage.keys import check_key, is_key
from saltray.storage.s3_client import LazyClient, encryption_from_environment
from saltray.storage.s3_errors import explain, is_not_found, is_transient, read_reply, status_of

if TYPE_CHECKING:
    from botocore.response import StreamingBody
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
DIRECTORY_BUCKET = "--x-s3"
"""End of the name of a bucket of S3 Express One Zone."""


class _Head(NamedTuple):
    """What is read of an object's header."""

    size: int
    tag: str
    metadata: dict[str, str]


class S3Store(Store):
    """Objects of a bucket below a prefix.

    Args:
        bucket: the bucket's name, or the ARN of an access point.
        prefix: key prefix without leading or trailing '/'; empty for the whole bucket.
        encryption: arguments of every request that creates an object; the environment's by default. They travel with
            the store, as a bucket that demands them demands them of all workers.
        client: returns the boto3 client; shared with the stores that `sub` returns.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        encryption: Mapping[str, str] | None = None,
        client: LazyClient | None = None,
    ) -> None:
        super().__init__(f"s3://{bucket}/{prefix}".rstrip("/"))
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._encryption: Any = encryption_from_environment() if encryption is None else dict(encryption)
        self._client = client or LazyClient(self.deadline_s)

    def __reduce__(self) -> tuple[type["S3Store"], tuple[str, str, Mapping[str, str]]]:
        return S3Store, (self._bucket, self._root.removesuffix("/"), self._encryption)

    def sub(self, prefix: str) -> "S3Store":
        return S3Store(self._bucket, self._name(prefix), self._encryption, self._client)

    def put(self, key: str, data: bytes) -> None:
        self._attempt(key, lambda: self._put(key, data, {SHA256: hashlib.sha256(data).hexdigest()}))

    def put_new(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        metadata = {SHA256: hashlib.sha256(data).hexdigest(), WRITER: uuid.uuid4().hex}

        def create() -> bool:
            try:
                self._put(key, data, metadata, IfNoneMatch="*")
            except ClientError as error:
                if status_of(error) == 501:
                    raise StorageError(
                        f"{self._where(key)}: the server has no create-only puts (If-None-Match), {OVERWRITE_REMEDY}"
                    ) from error
                if status_of(error) != 412:
                    raise
                # The key exists: from another writer, or from our own attempt whose reply was lost.
                head = self._head(name)
                return head is not None and metadata.items() <= head.metadata.items()
            return True

        return self._attempt(key, create)

    def put_file(self, key: str, path: Path) -> str:
        name = self._name(key)

        def upload() -> str:
            digest, size = sha256_of(path), path.stat().st_size
            parts = TransferConfig(PART_BYTES, multipart_chunksize=PART_BYTES, preferred_transfer_client="classic")
            arguments = {"Metadata": {SHA256: digest}} | self._encryption
            with path.open("rb") as file:
                read_reply(
                    lambda: self._client().upload_fileobj(file, self._bucket, name, ExtraArgs=arguments, Config=parts)
                )
            try:
                head = self._head(name)
            except ClientError as error:
                if status_of(error) != 403:
                    raise
                return digest  # these rights are to write alone, and the server has confirmed every part
            if head is None or (head.size, head.metadata.get(SHA256)) != (size, digest):
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
                read_reply(lambda: self._client().list_objects_v2(Bucket=self._bucket, Prefix=f"{name}/", MaxKeys=1))
                raise self._not_found(key)
            return Entry(key, head.size, head.tag)

        return self._attempt(key, read)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        entries = self._listed(self._prefix(prefix))
        return iter(sorted(entries)) if self._bucket.endswith(DIRECTORY_BUCKET) else entries

    def folders(self, prefix: str = "") -> builtins.list[str]:
        start = self._prefix(prefix)
        found = [item["Prefix"] for page in self._pages(start, "/") for item in page.get("CommonPrefixes", [])]
        return sorted(filter(is_key, (name.removeprefix(start).removesuffix("/") for name in found)))

    def names(self) -> builtins.list[str]:
        start = self._prefix("")
        page = next(self._pages(start, "/"))
        found = [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        found += [item["Key"] for item in page.get("Contents", [])]
        return sorted(filter(is_key, (name.removeprefix(start).removesuffix("/") for name in found)))

    def delete(self, key: str) -> None:
        self._delete(self._name(key))

    def delete_prefix(self, prefix: str) -> None:
        # One by one: not every server supports bulk deletion, and there are few objects.
        start = self._name(prefix) + "/"
        for name in [item["Key"] for page in self._pages(start) for item in page.get("Contents", [])]:
            self._delete(name)

    def _open(self, key: str) -> Opened:
        name = self._name(key)

        def request() -> Opened:
            reply = self._client().get_object(Bucket=self._bucket, Key=name)
            _ = reply["ETag"]  # every S3 server sends it; a proxy's own page with status 200 has none
            return Opened(_chunks(reply["Body"]), _metadata(reply).get(SHA256))

        return read_reply(request)

    def _is_transient(self, error: Exception) -> bool:
        return is_transient(error)

    def _explain(self, where: str, error: Exception) -> StorageError | None:
        # botocore first: some of its errors are OSErrors too.
        return explain(where, error) or super()._explain(where, error)

    def _put(self, key: str, data: bytes, metadata: dict[str, str], **condition: Any) -> None:
        arguments = {"Key": self._name(key), "Body": data, "Metadata": metadata} | condition | self._encryption
        # The tag as in `_open`.
        read_reply(lambda: self._client().put_object(Bucket=self._bucket, **arguments)["ETag"])

    def _name(self, key: str) -> str:
        """An object's full name in the bucket."""
        return self._root + check_key(key)

    def _prefix(self, prefix: str) -> str:
        """The start of all full names below a folder-like prefix."""
        return f"{self._name(prefix)}/" if prefix else self._root

    def _head(self, name: str) -> "_Head | None":
        """An object's header; None if it does not exist."""

        def request() -> _Head:
            reply = self._client().head_object(Bucket=self._bucket, Key=name)
            return _Head(reply["ContentLength"], reply["ETag"].strip('"'), _metadata(reply))

        try:
            return read_reply(request)
        except ClientError as error:
            if is_not_found(error):
                return None
            raise

    def _delete(self, name: str) -> None:
        key = name.removeprefix(self._root)
        self._attempt(key, lambda: read_reply(lambda: self._client().delete_object(Bucket=self._bucket, Key=name)))

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
            page = self._attempt(key, lambda: read_reply(lambda: _checked(self._client().list_objects_v2(**request))))
            yield page
            if not page["IsTruncated"]:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]


def _checked(page: "ListObjectsV2OutputTypeDef") -> "ListObjectsV2OutputTypeDef":
    """A page of a listing that has all that is read of it: any XML passes botocore's parser."""
    for item in page.get("Contents", []):
        _ = item["Key"], item["Size"], item["ETag"]
    for folder in page.get("CommonPrefixes", []):
        _ = folder["Prefix"]
    if page["IsTruncated"]:
        _ = page["NextContinuationToken"]
    return page


def _chunks(body: "StreamingBody") -> Iterator[bytes]:
    chunks = body.iter_chunks(CHUNK_BYTES)
    while chunk := read_reply(lambda: next(chunks, b"")):
        yield chunk


def _metadata(reply: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef") -> dict[str, str]:
    """An object's metadata by lower-case name: some servers return capitalised names."""
    return {name.lower(): value for name, value in reply["Metadata"].items()}
