"""One state of a database that any number of connections see, for as long as it is held."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from lakehouse.errors import InvalidRequest, LakehouseError, StatementCancelled
from lakehouse.ingest.sources.postgres.dsn import Dsn
from lakehouse.ingest.sources.postgres.failures import Dropped, attempt, connect_failure

T = TypeVar("T")
Cancelled = Callable[[], bool]

_POLL_S = 0.05
_GIVE_UP_S = 3.0
_LOCK_WAIT = "30s"
# Texts of dates, intervals, floats and bytes depend on these; the last two on how a table is gone through.
_SETTINGS = {
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": _LOCK_WAIT,
    "synchronize_seqscans": "off",
    "jit": "off",
}
_LOCKABLE = """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    FROM unnest(%s::text[], %s::text[]) AS w(schema, name) JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
    WHERE c.relkind IN ('r', 'p', 'v') AND has_schema_privilege(n.oid, 'USAGE')
        AND has_table_privilege(c.oid, 'SELECT')"""
# The timeline is another one after a standby took over, and numbers of transactions may mean others.
_SERVER = """
    SELECT s.system_identifier || '/' || c.timeline_id || '/' || d.oid
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d
    WHERE d.datname = current_database()"""
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
SETTINGS = "SELECT pg_backend_pid(), " + ", ".join(
    f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items()
)


def watched(work: Callable[[], T], cancelled: Cancelled, stop: Callable[[], object]) -> T:
    """Do something that blocks, in a thread of its own.

    Args:
        work: What to do.
        cancelled: Asked while it is done.
        stop: Ends it before its time.

    Raises:
        StatementCancelled: ``cancelled`` said so; the thread is left alone if it does not end soon.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001  (raised below)
            failure.append(error)

    thread = threading.Thread(target=run, name="postgres-query", daemon=True)
    thread.start()
    while True:
        thread.join(_POLL_S)
        if not thread.is_alive():
            break
        if cancelled():
            with suppress(Exception):
                stop()
            thread.join(_GIVE_UP_S)
            raise StatementCancelled("reading from PostgreSQL was cancelled")
    if failure:
        raise failure.pop()
    return outcome.pop()


class Snapshot:
    """A read-only transaction that is kept open and whose view of the database others take over.

    What it locked can be neither dropped, altered nor emptied meanwhile: these show at once to everybody, to
    older snapshots too, and rows would be missing.
    """

    def __init__(self, dsn: Dsn) -> None:
        self.dsn = dsn
        self.id = ""
        self.key = ""
        self.xmin = 0
        self.server = ""
        self.version = 0
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()

    def open(self, locked: Sequence[tuple[str, str]], cancelled: Cancelled) -> None:
        """Begin it.

        Args:
            locked: Schemas and names of tables to lock against changes before the state is fixed. Those that
                are not there, may not be read or cannot be locked are left out.
            cancelled: Asked while this waits.

        Raises:
            Dropped: The server cannot be reached for now.
            InvalidRequest: It refuses, or there is no such table.
            StatementCancelled: ``cancelled`` said so.
        """
        self.close()
        try:
            self._open(locked, cancelled)
        except BaseException:
            self.close()
            raise

    def _open(self, locked: Sequence[tuple[str, str]], cancelled: Cancelled) -> None:
        def connect() -> psycopg.Connection[tuple[Any, ...]]:
            return connected(self.dsn)

        self._connection = watched(connect, cancelled, lambda: None)
        self.version = self._connection.info.server_version
        schemas, names = [schema for schema, _ in locked], [name for _, name in locked]
        lockable = self._run(_LOCKABLE, [schemas, names], "the database", cancelled) if locked else []
        self._run(f"{BEGIN}; SET LOCAL lock_timeout = '{_LOCK_WAIT}'", (), "the database", cancelled)
        for (table,) in lockable:
            self._run(f"LOCK TABLE {table} IN ACCESS SHARE MODE", (), table, cancelled)
        self._run(SETTINGS, (), "the database", cancelled)
        xmin = "pg_snapshot_xmin(pg_current_snapshot())::text" if self.version >= 130000 else "'0'"
        (row,) = self._run(f"SELECT pg_export_snapshot(), {xmin}", (), "the database", cancelled)
        self.id, self.xmin, self.key = row[0], int(row[1]), secrets.token_hex(8)
        with suppress(InvalidRequest):  # not everywhere may everybody ask
            ((self.server,),) = self.query(_SERVER, (), "the database", cancelled)

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._connection is not None

    @property
    def is_bare(self) -> bool:
        """Whether what passes between the server and us does so as it is."""
        return self._connection is not None and is_bare(self._connection)

    def query(
        self, sql: str, values: Sequence[object], what: str, cancelled: Cancelled
    ) -> list[tuple[Any, ...]]:
        """Rows, as of this state; ``what`` names what is looked at.

        Raises:
            Dropped: The connection was lost, and the state with it.
            InvalidRequest, StorageError, StatementTimeout: It failed.
            StatementCancelled: ``cancelled`` said so.
        """
        connection = self._opened()

        def run() -> list[tuple[Any, ...]]:
            # A failed statement would end the transaction, and the state with it.
            connection.execute(b"SAVEPOINT q")
            try:
                found = _rows(connection, sql, values)
            except psycopg.Error:
                with suppress(psycopg.Error):
                    connection.execute(b"ROLLBACK TO SAVEPOINT q")
                raise
            connection.execute(b"RELEASE SAVEPOINT q")
            return found

        return self._watched(run, what, cancelled)

    def describe(self, query: str, cancelled: Cancelled) -> list[tuple[str, int, int]]:
        """Names, types and modifiers of the columns of a query, which is not run.

        Raises:
            InvalidRequest: It is not one statement that gives rows.
        """
        connection = self._opened()

        def look() -> list[tuple[str, int, int]]:
            bare = connection.pgconn
            for result in (bare.prepare(b"q", query.encode()), bare.describe_prepared(b"q")):
                if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(result)
            columns = [
                ((result.fname(n) or b"").decode(), result.ftype(n), result.fmod(n))
                for n in range(result.nfields)
            ]
            bare.exec_(b"DEALLOCATE q")
            return columns

        self._run("SAVEPOINT q", (), "the query", cancelled)
        try:
            return self._watched(look, "the query", cancelled)
        finally:
            self._run("ROLLBACK TO SAVEPOINT q", (), "the query", cancelled)

    def alive(self) -> bool:
        """Whether the state is still to be had."""
        with suppress(psycopg.Error, OSError), self._lock:
            return self._connection is not None and bool(self._connection.execute("SELECT 1").fetchall())
        return False

    def cancel(self, pids: Sequence[int]) -> None:
        """End what other sessions of ours run, at the server."""
        if not pids:
            return
        ask = "SELECT pg_cancel_backend(p) FROM unnest(%s::int4[]) p"
        with suppress(psycopg.Error, OSError, LakehouseError, Dropped):
            if self.alive():
                with self._lock:
                    self._opened().execute(ask, [list(pids)])
                return
            with connected(self.dsn) as other:
                other.execute(ask, [list(pids)])

    def close(self) -> None:
        """Let go of the state and of its locks."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.close()

    def _run(
        self, sql: str, values: Sequence[object], what: str, cancelled: Cancelled
    ) -> list[tuple[Any, ...]]:
        connection = self._opened()
        return self._watched(lambda: _rows(connection, sql, values), what, cancelled)

    def _watched(self, work: Callable[[], T], what: str, cancelled: Cancelled) -> T:
        return watched(lambda: self._locked(lambda: attempt(self.dsn, what, work)), cancelled, self._stop)

    def _locked(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    def _stop(self) -> None:
        self._opened().cancel_safe(timeout=_GIVE_UP_S)

    def _opened(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            raise RuntimeError("the snapshot is not open")
        return self._connection


def _rows(
    connection: psycopg.Connection[tuple[Any, ...]], sql: str, values: Sequence[object]
) -> list[tuple[Any, ...]]:
    cursor = connection.execute(sql.encode(), values or None)
    return cursor.fetchall() if cursor.description else []


def connected(dsn: Dsn) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection, in which each statement is its own transaction unless it begins one.

    Raises:
        Dropped: The server cannot be reached for now.
        InvalidRequest: It refuses.
    """
    try:
        return psycopg.connect(dsn.conninfo(), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        failure = connect_failure(error, dsn)
    raise failure


def is_bare(connection: psycopg.Connection[Any]) -> bool:
    """Whether a connection is without TLS and GSS, in a database whose texts are all UTF-8 for us."""
    return (
        not connection.pgconn.ssl_in_use
        and any(each.keyword == b"gssencmode" and each.val == b"disable" for each in connection.pgconn.info)
        and connection.info.parameter_status("server_encoding") != "SQL_ASCII"
    )


def pause(seconds: float, cancelled: Cancelled) -> None:
    """Wait.

    Raises:
        StatementCancelled: ``cancelled`` said so.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if cancelled():
            raise StatementCancelled("reading from PostgreSQL was cancelled")
        time.sleep(_POLL_S)
