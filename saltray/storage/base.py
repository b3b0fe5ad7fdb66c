"""The interface of an object store, and what its two kinds, a folder and S3, have in common.

Both kinds give the same guarantees. A reader sees a complete object or none. Of concurrent calls of `put_new` for one
key, one succeeds. Transient errors are retried until one deadline (see `retry`). Other errors are raised as a
`StorageError` that names the remedy.
"""

import builtins
import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from saltray.errors import IntegrityError, NotFoundError, SaltrayError, StorageError
from saltray.records import RECORD_BYTES, bytes_limit, to_record
from saltray.storage.files import TEMP_PREFIX, explain_os_error, scratch_folder, sync, temporary_file, write_here
from saltray.storage.formats import FormatError, decode_json, decode_record, decode_table, encode_json, encode_table
from saltray.storage.retry import deadline_from_environment, retry
from saltray.storage.tables import RESTORE, TableFile, write_tables

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

OVERWRITE_REMEDY = (
    "so two runs could overwrite each other; use AWS S3, another store with conditional writes, or a folder"
)


class Entry(NamedTuple):
    """An object in a listing."""

    key: str
    size: int
    """Bytes."""
    tag: str
    """Changes when the content does: S3's ETag, or a file's size and time of modification."""


@dataclass(frozen=True)
class Opened:
    """An object that is being read."""

    chunks: Iterable[bytes]
    sha256: str | None
    """The digest in hex that was stored with the object, if any."""


@contextmanager
def unnamed(key: str) -> Iterator[None]:
    """Leave the name of a probe out of errors: the user knows of no such object."""
    try:
        yield
    except StorageError as error:
        raise type(error)(str(error).replace(f"/{key}", "")) from error


class Store(ABC):
    """Objects by key. A key is a relative path with '/' as separator and without empty parts, '.' and '..'.

    A store pickles to its URI alone: a worker creates its own client from its own environment, and credentials are
    never sent. Stores with the same URI are equal. Every method may raise StorageError.

    Attributes:
        uri: the folder's absolute path, or s3://bucket/prefix.
        deadline_s: how long a failing request is retried, in seconds from its first failure.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.deadline_s = deadline_from_environment()

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """The class and the parts of the URI."""

    def __eq__(self, other: object) -> bool:
        return self.uri == other.uri if isinstance(other, Store) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"open_store({self.uri!r})"

    @property
    def is_remote(self) -> bool:
        """Whether it is in S3, not a folder."""
        return self.uri.startswith("s3://")

    @abstractmethod
    def sub(self, prefix: str) -> "Store":
        """The store of all objects below a folder-like prefix."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object atomically."""

    @abstractmethod
    def put_new(self, key: str, data: bytes) -> bool:
        """Create a small object atomically, unless the key exists.

        Returns:
            True if this call created it, even if the reply to a first attempt was lost; False if the key existed.
        """

    @abstractmethod
    def put_file(self, key: str, path: Path) -> str:
        """Create or replace an object of any size from a file. Returns its SHA-256 in hex.

        Raises:
            IntegrityError: the object in the store then differs from the file.
        """

    @abstractmethod
    def entry(self, key: str) -> Entry:
        """Size and tag of one object.

        Raises:
            NotFoundError: the key does not exist.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects below a folder-like prefix, in key order: `runs/r1` does not match `runs/r10/x`."""

    @abstractmethod
    def folders(self, prefix: str = "") -> builtins.list[str]:
        """Names of the direct sub-folders that contain an object, sorted; without those that may not be in a key."""

    @abstractmethod
    def names(self) -> builtins.list[str]:
        """Names of files and folders, those of one request: in S3 of 1,000 at most."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; no error if the key does not exist."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below a folder-like prefix, which must not be empty."""

    @abstractmethod
    def _open(self, key: str) -> Opened:
        """Start reading an object. Raises NotFoundError or the errors of the kind's client."""

    @abstractmethod
    def _is_transient(self, error: Exception) -> bool:
        """Whether a retry may succeed after this error of the kind's client."""

    def _explain(self, where: str, error: Exception) -> StorageError | None:
        """An error of the kind's client as a message for the user; None for any other exception."""
        return explain_os_error(where, error) if isinstance(error, OSError) else None

    def exists(self, key: str) -> bool:
        """Whether the key exists."""
        try:
            self.entry(key)
        except NotFoundError:
            return False
        return True

    def get(self, key: str, *, sha256: str | None = None, limit: int | None = None) -> bytes:
        """An object's bytes, checked against `sha256`, or by default against the digest stored with the object.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: the digest differs, or it has more than `limit` bytes; the rest is not read then.
        """

        def read() -> bytes:
            data = bytearray()

            def keep(chunk: bytes) -> None:
                data.extend(chunk)
                if limit is not None and len(data) > limit:
                    raise IntegrityError(f"{self._where(key)}: it has more than {limit:,} bytes; {RESTORE}")

            self._read(key, keep, sha256)
            return bytes(data)

        return self._attempt(key, lambda: _twice(read))

    def get_file(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """`get`, streamed to a file. The file is created or replaced only after the digest was checked."""

        def read() -> None:
            with temporary_file(path.parent) as file:
                self._read(key, lambda chunk: write_here(file, chunk), sha256)
                sync(file)
                Path(file.name).replace(path)

        self._attempt(key, lambda: _twice(read))

    def check_writable(self) -> None:
        """Create, read and delete a small probe object, and check that `put_new` does not overwrite it.

        Raises:
            StorageError: the store is not usable.
        """
        key, probe = f"{TEMP_PREFIX}{uuid.uuid4().hex}", b"saltray may write here\n"
        with unnamed(key):
            created = self.put_new(key, probe)
            try:
                if self.get(key) != probe:
                    fault = "a probe read back differs from what was written"
                    raise IntegrityError(f"{self.uri}: {fault}; check the store")
                if not created or self.put_new(key, probe):
                    raise StorageError(f"{self.uri}: create-only puts (If-None-Match) are ignored, {OVERWRITE_REMEDY}")
            finally:
                self.delete(key)

    def put_json(self, key: str, value: Any) -> None:
        """`put` plain JSON values in canonical form: equal values give equal bytes."""
        self.put(key, encode_json(value))

    def put_new_json(self, key: str, value: Any) -> bool:
        """`put_new` plain JSON values in canonical form."""
        return self.put_new(key, encode_json(value))

    def get_json(self, key: str) -> Any:
        """Plain JSON values.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: the digest differs, or the object is not JSON.
        """
        return self._decode(key, self.get(key, limit=RECORD_BYTES), decode_json)

    def put_record(self, key: str, record: Any) -> None:
        """`put_json` a dataclass (see `saltray.records`)."""
        self.put_json(key, to_record(record))

    def put_new_record(self, key: str, record: Any) -> bool:
        """`put_new_json` a dataclass."""
        return self.put_new_json(key, to_record(record))

    def get_record(self, key: str, kind: type[T]) -> T:
        """A dataclass of type `kind`, parsed strictly.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: the digest differs, or the object is not JSON or not a record of `kind`.
        """
        return self._decode(key, self.get(key, limit=bytes_limit(kind)), lambda data: decode_record(data, kind))

    def put_table(self, key: str, table: "pa.Table") -> str:
        """Put a table as Parquet with zstd. Returns its SHA-256 in hex."""
        data = encode_table(table)
        self.put(key, data)
        return hashlib.sha256(data).hexdigest()

    def get_table(
        self,
        key: str,
        *,
        sha256: str | None = None,
        schema: "pa.Schema | None" = None,
        rows: int | None = None,
    ) -> "pa.Table":
        """A Parquet table. The digest is checked before the bytes are parsed.

        Args:
            key: its key.
            sha256: as for `get`.
            schema: columns that it must have, of these types and without nulls.
            rows: number of rows that it must have.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: the digest differs, or the object is not Parquet, or has no such columns and rows.
        """
        return self._decode(key, self.get(key, sha256=sha256), lambda data: decode_table(data, schema, rows))

    def put_tables(self, key: str, schema: "pa.Schema", tables: "Iterable[pa.Table]") -> str:
        """`put_table` a table that is made a part at a time, of which one is held. Returns its SHA-256 in hex."""
        with scratch_folder() as folder:
            path = folder / "table"
            write_tables(path, schema, tables)
            return self.put_file(key, path)

    @contextmanager
    def table_file(self, key: str, *, sha256: str, schema: "pa.Schema", rows: int) -> "Iterator[TableFile]":
        """`get_table` as a file of this machine, to be read a part at a time; its digest was checked.

        Args:
            key: its key.
            sha256: as for `get`.
            schema: columns that it must have, of these types.
            rows: number of rows that it must have.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: the digest differs, or the object is not Parquet, or has no such columns and rows; a part
                that is corrupted raises it where it is read.
        """
        with scratch_folder() as folder:
            path = folder / "table"
            self.get_file(key, path, sha256=sha256)
            yield TableFile(path, self._where(key), schema, rows)

    def _where(self, key: str) -> str:
        """An object's full name, for messages."""
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri

    def _not_found(self, key: str) -> NotFoundError:
        return NotFoundError(f"{self._where(key)}: there is no such object; check the name")

    def _decode(self, key: str, data: bytes, decode: Callable[[bytes], T]) -> T:
        """`decode(data)`, whose errors become IntegrityErrors that name the object."""
        try:
            return decode(data)
        except FormatError as error:
            raise IntegrityError(f"{self._where(key)}: {error}; {RESTORE}") from error
        except SaltrayError as error:  # an impossible value, refused by the record's own class
            raise IntegrityError(f"{self._where(key)}: {error}") from error

    def _attempt(self, key: str, call: Callable[[], T]) -> T:
        """Return `call()`, retried after transient errors; errors of the kind's client become StorageErrors."""
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

    def _read(self, key: str, write: Callable[[bytes], object], sha256: str | None) -> None:
        """Pass an object's bytes to `write` chunk by chunk, then raise IntegrityError unless the digest is right."""
        source = self._open(key)
        digest = hashlib.sha256()
        for chunk in source.chunks:
            digest.update(chunk)
            write(chunk)
        expected = sha256 or source.sha256
        if expected and digest.hexdigest() != expected:
            raise IntegrityError(
                f"{self._where(key)}: its SHA-256 is {digest.hexdigest()}, not {expected}, so it is corrupted or was "
                f"replaced; {RESTORE}"
            )


def _twice(read: Callable[[], T]) -> T:
    """`read()`, once more if the digest differs: not every transfer tells that it ended early."""
    try:
        return read()
    except IntegrityError:
        return read()
