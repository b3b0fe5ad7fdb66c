"""The seam to object storage: what a store promises, and the helpers that every kind shares.

Promises of each kind, a folder and S3 alike: a reader sees a whole object or none; of several writers of `put_new` one
wins; transient errors are tried again under one deadline (see `retry`); what is left is a `StorageError` with a remedy.
"""

import builtins
import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from saltray.errors import IntegrityError, NotFoundError, StorageError
from saltray.storage.files import TEMP_PREFIX, explain_os_error, sync, temporary_file
from saltray.storage.names import check_key, open_store
from saltray.storage.retry import deadline_from_environment, one_line, retry

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class Entry(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    tag: str
    """Changes when the content does: S3's ETag, or a file's size and time of change."""


@dataclass(frozen=True)
class Opened:
    """An object being read."""

    chunks: Iterable[bytes]
    sha256: str | None
    """The digest that its writer recorded with it, in hex, if any."""


class Store(ABC):
    """Objects by key. Keys are relative, parted by '/', without empty parts, '.' and '..'.

    A store pickles to its URI alone: a worker makes its own client from its own environment, and no secret travels.
    Stores of one URI are equal. Every method may raise StorageError.

    Attributes:
        uri: the folder's absolute path, or s3://bucket/prefix.
        deadline_s: seconds from the first failure that a request is tried again for.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.deadline_s = deadline_from_environment()

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        return open_store, (self.uri,)

    def __eq__(self, other: object) -> bool:
        return self.uri == other.uri if isinstance(other, Store) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"open_store({self.uri!r})"

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object, atomically."""

    @abstractmethod
    def put_new(self, key: str, data: bytes) -> bool:
        """Create a small object if there is none of that key, atomically.

        Returns:
            True if this call created it, also where the reply got lost; False if another's object is there.
        """

    @abstractmethod
    def put_file(self, key: str, path: Path) -> str:
        """Create or replace an object of any size from a file. Returns its SHA-256 in hex.

        Raises:
            IntegrityError: what the store says it holds afterwards is not the file.
        """

    @abstractmethod
    def entry(self, key: str) -> Entry:
        """Size and tag of one object.

        Raises:
            NotFoundError: there is none.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects below a folder-like prefix, in key order: `runs/r1` does not match `runs/r10/x`."""

    @abstractmethod
    def folders(self, prefix: str = "") -> builtins.list[str]:
        """Names of the direct sub-folders that hold an object, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; no error if there is none."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below a folder-like prefix, which is not empty."""

    @abstractmethod
    def _open(self, key: str) -> Opened:
        """Start reading an object. Raises NotFoundError, or the kind's own errors."""

    @abstractmethod
    def _is_transient(self, error: Exception) -> bool:
        """Whether an error of the kind may pass by itself."""

    def _explain(self, where: str, error: Exception) -> StorageError | None:
        """What an error of the kind means to the user; None if it is not one."""
        return explain_os_error(where, error) if isinstance(error, OSError) else None

    def sub(self, prefix: str) -> "Store":
        """The same store, rooted deeper."""
        return open_store(f"{self.uri.rstrip('/')}/{check_key(prefix)}")

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            self.entry(key)
        except NotFoundError:
            return False
        return True

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """An object's bytes, checked against `sha256`, or else against the digest that was stored with it.

        Raises:
            NotFoundError: there is no such object.
            IntegrityError: the digest differs.
        """

        def read() -> bytes:
            chunks: builtins.list[bytes] = []
            self._pour(key, chunks.append, sha256)
            return b"".join(chunks)

        return self._attempt(key, read)

    def get_file(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """The same as `get`, streamed to a file, which appears, or is replaced, only when all is well."""

        def read() -> None:
            with temporary_file(path.parent) as file:
                self._pour(key, file.write, sha256)
                sync(file)
                Path(file.name).replace(path)

        self._attempt(key, read)

    def check_writable(self) -> None:
        """Put, read back and delete a small probe, and prove that the store never lets `put_new` overwrite.

        Raises:
            StorageError: it cannot be used, and what to do.
        """
        key, probe = f"{TEMP_PREFIX}{uuid.uuid4().hex}", b"saltray may write here\n"
        created = self.put_new(key, probe)
        try:
            if self.get(key) != probe:
                raise IntegrityError(f"{self.uri}: a probe read back differs from what was written; check the store")
            if not created or self.put_new(key, probe):
                raise StorageError(
                    f"{self.uri}: create-only puts (If-None-Match) are not honoured, so two runs could overwrite each "
                    "other; use AWS S3, another store with conditional writes, or a folder"
                )
        finally:
            self.delete(key)

    def put_json(self, key: str, record: Any) -> None:
        """Put a record of plain JSON values, as the same bytes whatever the order of its keys."""
        self.put(key, to_json(record))

    def put_new_json(self, key: str, record: Any) -> bool:
        """`put_new` of a record of plain JSON values."""
        return self.put_new(key, to_json(record))

    def get_json(self, key: str, *, sha256: str | None = None) -> Any:
        """A record of plain JSON values.

        Raises:
            NotFoundError: there is no such object.
            IntegrityError: the digest differs, or it is not JSON.
        """
        data = self.get(key, sha256=sha256)
        try:
            return json.loads(data)
        except ValueError as error:
            raise IntegrityError(f"{self._where(key)}: not JSON: {error}; restore it or write it anew") from error

    def put_table(self, key: str, table: "pa.Table") -> str:
        """Put a table as Parquet with zstd. Returns its SHA-256 in hex."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data: bytes = sink.getvalue().to_pybytes()
        self.put(key, data)
        return hashlib.sha256(data).hexdigest()

    def get_table(
        self, key: str, *, sha256: str | None = None, columns: builtins.list[str] | None = None
    ) -> "pa.Table":
        """A Parquet table, whose digest is checked before anything is parsed.

        Raises:
            NotFoundError: there is no such object.
            IntegrityError: the digest differs, or it is not Parquet.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = self.get(key, sha256=sha256)
        try:
            return pq.read_table(pa.BufferReader(data), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(
                f"{self._where(key)}: not Parquet: {one_line(error)}; restore it or write it anew"
            ) from error

    def _where(self, key: str) -> str:
        """An object's full name, for messages."""
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri

    def _attempt(self, key: str, call: Callable[[], T]) -> T:
        """Return `call()`, tried again while its errors are transient; those that remain become StorageErrors."""
        where = self._where(key)
        try:
            return retry(call, what=where, seconds=self.deadline_s, is_transient=self._is_transient)
        except StorageError:
            raise
        except Exception as error:
            explained = self._explain(where, error)
            if explained is None:
                raise
            raise explained from error

    def _pour(self, key: str, write: Callable[[bytes], object], sha256: str | None) -> None:
        """Hand an object's bytes to `write` chunk by chunk, then raise IntegrityError unless the digest is right."""
        source = self._open(key)
        digest = hashlib.sha256()
        for chunk in source.chunks:
            digest.update(chunk)
            write(chunk)
        expected = sha256 or source.sha256
        if expected and digest.hexdigest() != expected:
            raise IntegrityError(
                f"{self._where(key)}: its SHA-256 is {digest.hexdigest()}, not {expected}, so it is damaged or was "
                "replaced; restore it or write it anew"
            )


def to_json(record: Any) -> bytes:
    """A record of plain JSON values as canonical bytes: sorted keys, indented by 2, no NaN."""
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
