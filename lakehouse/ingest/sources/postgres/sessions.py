"""Connections that stream rows as Arrow.

Without TLS rows are read from the socket and decoded here, a column at a time. With TLS, and where a column
is of a type that only they can read, the ADBC driver does it, or psycopg where that is not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Protocol

import psycopg
import pyarrow as pa
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.numeric import NumericBinaryLoader

from lakehouse.errors import LakehouseError
from lakehouse.ingest.sources.postgres.binary_rows import Kind, RowReader, kinds_by_oid
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.failures import Dropped, attempt, connect_failure, failure_of
from lakehouse.ingest.sources.postgres.snapshot import BEGIN, SETTINGS, Snapshot, connected, is_bare
from lakehouse.ingest.sources.postgres.wire import CopyStream

# Fetched at once; the first rows tell how large they are.
_FIRST_ROWS = 8
_MOST_ROWS = 10_000


class Session(Protocol):
    """A connection that sees a snapshot. Used by one thread."""

    @property
    def pid(self) -> int:
        """The number of its process at the server."""
        ...

    def batches(self, sql: str, what: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query, in batches of about so many bytes as was said.

        Raises:
            Dropped: The connection was lost.
            InvalidRequest, StorageError, StatementTimeout: It failed.
        """
        ...

    def close(self) -> None:
        """End it."""
        ...


Opener = Callable[[Dsn, str, int], Session]


def fastest(snapshot: Snapshot) -> Opener:
    """The best session for a server that is connected to."""
    return WireSession if snapshot.is_bare else _of_driver()


def can_trust(opener: Opener | None) -> bool:
    """Whether dates that are not finite come as something that no date is; psycopg's cursor fails at them."""
    return opener is not PsycopgSession and _of_driver() is not PsycopgSession


def _of_driver() -> Opener:
    """The session of the driver that is there."""
    return AdbcSession if importlib.util.find_spec("adbc_driver_postgresql") else PsycopgSession


class WireSession:
    """COPY in binary form, read from the bare socket of a connection without TLS.

    A query with columns that cannot be read so goes to the session of a driver, which sees the same snapshot.
    """

    def __init__(self, dsn: Dsn, snapshot: str, batch_bytes: int) -> None:
        self._dsn = dsn
        self._snapshot = snapshot
        self._batch_bytes = batch_bytes
        self._connection, self._own_pid = _joined(dsn, snapshot)
        self._driver: Session | None = None
        self._kinds = kinds_by_oid()

    @property
    def pid(self) -> int:
        """The number of the process that is at work."""
        return self._own_pid if self._driver is None else self._driver.pid

    def batches(self, sql: str, what: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query."""
        kinds = attempt(self._dsn, what, lambda: self._described(sql))
        if kinds is None:
            if self._driver is None:
                self._driver = _of_driver()(self._dsn, self._snapshot, self._batch_bytes)
            yield from self._driver.batches(sql, what)
            return
        reader = RowReader(kinds)
        stream = CopyStream(self._connection, f"COPY ({sql}) TO STDOUT (FORMAT binary)", self._batch_bytes)
        failure: BaseException
        try:
            for rows in stream.rows():
                yield reader.batch(rows)
        except (psycopg.Error, OSError) as error:
            failure = failure_of(error, self._dsn, what)
        else:
            return
        raise failure

    def _described(self, sql: str) -> list[Kind] | None:
        """The types of the columns, or None if one of them cannot be read, or none may be so."""
        bare = self._connection.pgconn
        if not is_bare(self._connection):
            return None
        for result in (bare.prepare(b"", sql.encode()), bare.describe_prepared(b"")):
            if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)
        found = [self._kinds.get(result.ftype(number)) for number in range(result.nfields)]
        kinds = [kind for kind in found if kind is not None]
        return kinds if len(kinds) == len(found) else None

    def close(self) -> None:
        """End it."""
        if self._driver is not None:
            self._driver.close()
        with suppress(psycopg.Error, OSError):
            self._connection.close()


class AdbcSession:
    """COPY in binary form, decoded in C++ straight into Arrow."""

    def __init__(self, dsn: Dsn, snapshot: str, batch_bytes: int) -> None:
        import adbc_driver_postgresql.dbapi as adbc  # noqa: PLC0415

        self._dsn = dsn
        self._batch_bytes = batch_bytes
        failure: BaseException | None = None
        try:
            self._connection = adbc.connect(dsn.conninfo(), autocommit=True)
        except adbc.Error as error:
            failure = connect_failure(error, dsn)
        if failure is not None:
            raise failure
        self.pid = 0
        try:
            for sql in (BEGIN, f"SET TRANSACTION SNAPSHOT '{snapshot}'", SETTINGS):
                for batch in self.batches(sql, "the database"):
                    self.pid = batch.column(0)[0].as_py()
        except (LakehouseError, Dropped) as error:
            failure = _no_snapshot(error)
        if failure is not None:
            self.close()
            raise failure

    def batches(self, sql: str, what: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query."""
        failure: BaseException
        try:
            with self._connection.cursor() as cursor:
                cursor.adbc_statement.set_options(
                    **{"adbc.postgresql.batch_size_hint_bytes": str(self._batch_bytes)}
                )
                cursor.execute(sql)
                if sql is BEGIN or sql.startswith("SET "):
                    return
                with closing(cursor.fetch_record_batch()) as reader:
                    yield from reader
        except (LakehouseError, Dropped, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001  (ADBC's errors, and OSError in the middle of a stream)
            failure = failure_of(error, self._dsn, what)
            if (
                not isinstance(failure, Dropped)
                and not getattr(error, "sqlstate", None)
                and not self._alive()
            ):
                failure = Dropped(failure)
        else:
            return
        raise failure

    def _alive(self) -> bool:
        with suppress(Exception), self._connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
            cursor.execute("SELECT 1")
            return bool(cursor.fetchall())
        return False

    def close(self) -> None:
        """End it."""
        with suppress(Exception):
            self._connection.close()


class PsycopgSession:
    """A cursor at the server, fetched from in binary form, value by value in Python."""

    def __init__(self, dsn: Dsn, snapshot: str, batch_bytes: int) -> None:
        self._dsn = dsn
        self._batch_bytes = batch_bytes
        self._connection, self.pid = _joined(dsn, snapshot)

    def batches(self, sql: str, what: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query."""
        failure: BaseException
        try:
            with self._connection.cursor(binary=True) as cursor:
                for name, loader in _LOADERS.items():
                    cursor.adapters.register_loader(name, loader)
                cursor.execute(f"DECLARE rows NO SCROLL CURSOR FOR {sql}".encode())
                count = _FIRST_ROWS
                while rows := cursor.execute(f"FETCH {count} FROM rows".encode()).fetchall():
                    kinds = [_arrow_type(column.type_code) for column in cursor.description or ()]
                    batch = pa.record_batch(
                        [_array(values, k) for values, k in zip(zip(*rows, strict=True), kinds, strict=True)],
                        names=[str(n) for n in range(len(kinds))],
                    )
                    each = max(batch.nbytes / len(rows), 1)
                    count = int(min(max(self._batch_bytes / each, 1), _MOST_ROWS, 8 * count))
                    del rows
                    yield batch
                cursor.execute(b"CLOSE rows")
        except psycopg.Error as error:
            failure = failure_of(error, self._dsn, what)
        else:
            return
        raise failure

    def close(self) -> None:
        """End it."""
        with suppress(psycopg.Error, OSError):
            self._connection.close()


def _joined(dsn: Dsn, snapshot: str) -> tuple[psycopg.Connection[tuple[Any, ...]], int]:
    """A connection that sees a snapshot, and the number of its process.

    Raises:
        Dropped: There is none for now, or the snapshot is gone.
        InvalidRequest: The server refuses.
    """
    connection = connected(dsn)
    failure: BaseException
    try:
        connection.execute(BEGIN)
        connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        row = connection.execute(SETTINGS.encode()).fetchone()
    except psycopg.Error as error:
        failure = _no_snapshot(failure_of(error, dsn, "the database"))
    else:
        assert row is not None
        return connection, int(str(row[0]))
    with suppress(psycopg.Error, OSError):
        connection.close()
    raise failure


def _no_snapshot(error: LakehouseError | Dropped) -> Dropped:
    """Whoever held the snapshot may have been gone by the time that it was taken over."""
    return error if isinstance(error, Dropped) else Dropped(error)


class _Number(Loader):
    """A binary value as the number that it is, which no calendar of Python's could hold."""

    format = Format.BINARY
    epoch = 0

    def load(self, data: Buffer) -> int:
        return int.from_bytes(bytes(data), "big", signed=True) + self.epoch


class _Day(_Number):
    epoch = 10_957


class _Moment(_Number):
    epoch = 10_957 * 86_400_000_000


class _Bytes(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class _Digits(NumericBinaryLoader):
    """A number as text, since nothing says how many digits the others have."""

    def load(self, data: Buffer) -> str:  # type: ignore[override]
        return format(super().load(data), "f")


_LOADERS: dict[str, type[Loader]] = {
    "numeric": _Digits,
    "date": _Day,
    "time": _Number,
    "timestamp": _Moment,
    "timestamptz": _Moment,
    "uuid": _Bytes,
    "tid": _Bytes,
}
_TYPES = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bytea": pa.binary(),
    "tid": pa.binary(),
    "uuid": pa.uuid(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}


def _arrow_type(oid: int) -> pa.DataType:
    known = psycopg.adapters.types.get(oid)
    if known is None:
        return pa.string()
    kind = _TYPES.get(known.name, pa.string())
    return pa.list_(kind) if known.array_oid == oid and known.oid != oid else kind


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        item = kind.value_type
        return pa.array(values, pa.list_(_stored(item))).cast(kind) if item != pa.uuid() else _uuids(values)
    if kind == pa.uuid():
        return kind.wrap_array(pa.array(values, kind.storage_type))
    stored = _stored(kind)
    made = pa.array(values, stored)
    return made if stored == kind else made.cast(kind)


def _uuids(values: Sequence[Any]) -> pa.Array:
    made = pa.array(values, pa.list_(pa.uuid().storage_type))
    inner = pa.uuid().wrap_array(made.values)
    return pa.ListArray.from_arrays(made.offsets, inner, mask=made.is_null() if made.null_count else None)


def _stored(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_date32(kind):
        return pa.int32()
    return pa.int64() if pa.types.is_temporal(kind) else kind
