"""Connections that stream rows as Arrow: by the ADBC driver, or by psycopg where that is not installed."""

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

from lakehouse.errors import LakehouseError
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.failures import Dropped, connect_failure, failure_of
from lakehouse.ingest.sources.postgres.snapshot import BEGIN, SETTINGS, connected

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


def fastest() -> Opener:
    """The session of the driver that is there."""
    return AdbcSession if importlib.util.find_spec("adbc_driver_postgresql") else PsycopgSession


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
        self._connection = connected(dsn)
        failure: BaseException | None = None
        row: tuple[object, ...] | None = None
        try:
            self._connection.execute(BEGIN)
            self._connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
            row = self._connection.execute(SETTINGS.encode()).fetchone()
        except psycopg.Error as error:
            failure = _no_snapshot(failure_of(error, dsn, "the database"))
        if failure is not None:
            self.close()
            raise failure
        assert row is not None
        self.pid = int(str(row[0]))

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


_LOADERS: dict[str, type[Loader]] = {
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
