"""The connection: SQL goes over ADBC, flights and actions over pyarrow.flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
from adbc_driver_flightsql import DatabaseOptions

from lakehouse_client.actions import Actions
from lakehouse_client.errors import LakehouseClientError, client_errors
from lakehouse_client.result import Result

DEFAULT_URI = "grpc://127.0.0.1:31337"
Mode = Literal["create", "append", "replace", "create_append"]
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Flight:
    """A dataset as the server lists it; -1 where a number is unknown."""

    path: tuple[str, ...]
    schema: pa.Schema
    rows: int
    bytes: int
    endpoints: int


def connect(
    uri: str = DEFAULT_URI,
    *,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    schema: str | None = None,
    tls_root_certs: bytes | None = None,
) -> Client:
    """Connect to a server.

    Args:
        uri: ``grpc://host:port``, or ``grpc+tls://host:port``.
        token: A bearer token.
        user: User name, with ``password``.
        password: Password, with ``user``.
        schema: The schema that names without one refer to.
        tls_root_certs: PEM certificates to trust instead of the system's.

    Raises:
        LakehouseClientError: The server cannot be reached or refuses.
    """
    return Client(uri, token, user, password, schema, tls_root_certs)


class Client:
    """A session with a server; use it as a context manager. Made by ``connect``.

    Attributes:
        actions: The server's actions as typed methods: ``client.actions.samples.load(name="nyc")``.
    """

    def __init__(
        self,
        uri: str,
        token: str | None,
        user: str | None,
        password: str | None,
        schema: str | None,
        tls_root_certs: bytes | None,
    ) -> None:
        options: dict[str, str] = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
        if token is not None:
            options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
        if user is not None:
            options.update(username=user, password=password or "")
        if tls_root_certs is not None:
            options[DatabaseOptions.TLS_ROOT_CERTS.value] = tls_root_certs.decode()
        self._schema = schema
        with client_errors():
            self._adbc = adbc.connect(uri, db_kwargs=options, autocommit=True)
            try:
                if schema is not None:
                    self._adbc.adbc_current_db_schema = schema
                tls = {} if tls_root_certs is None else {"tls_root_certs": tls_root_certs}
                self._flight = flight.connect(uri, **tls)
                self._call = self._call_options(token, user, password)
            except BaseException:
                self._adbc.close()
                raise
        self.actions = Actions(self.call)

    def _call_options(
        self, token: str | None, user: str | None, password: str | None
    ) -> flight.FlightCallOptions:
        if user is not None:
            return flight.FlightCallOptions(
                headers=[self._flight.authenticate_basic_token(user, password or "")]
            )
        headers = [(b"authorization", b"Bearer " + token.encode())] if token is not None else []
        return flight.FlightCallOptions(headers=headers)

    # -- SQL ----------------------------------------------------------------------------------------

    def sql(self, query: str, parameters: Sequence[Any] | None = None) -> Result:
        """Run a query; its rows stream.

        Raises:
            LakehouseClientError: The statement is wrong or failed.
        """
        cursor = self._adbc.cursor()
        try:
            with client_errors():
                cursor.execute(query, parameters)
                reader = cursor.fetch_record_batch()
        except BaseException:
            cursor.close()
            raise
        return Result(reader, cursor.rowcount, cursor.close)

    def execute(self, statement: str, parameters: Sequence[Any] | None = None) -> int:
        """Run a statement that gives no rows; gives the number of rows affected, or -1.

        Raises:
            LakehouseClientError: The statement is wrong or failed.
        """
        with self._adbc.cursor() as cursor, client_errors():
            cursor.execute(statement, parameters)
            return int(cursor.rowcount)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction for the length of a ``with``: committed at its end, rolled back on an error.

        Raises:
            LakehouseClientError: The commit failed; nothing has changed.
        """
        with client_errors():
            self._adbc.adbc_connection.set_autocommit(False)
        try:
            yield
        except BaseException:
            with client_errors():
                self._adbc.rollback()
            raise
        else:
            with client_errors():
                self._adbc.commit()
        finally:
            with client_errors():
                self._adbc.adbc_connection.set_autocommit(True)

    # -- data in ------------------------------------------------------------------------------------

    def ingest(
        self,
        table: str,
        data: Any,
        mode: Mode = "create",
        *,
        schema: str | None = None,
        temporary: bool = False,
    ) -> int:
        """Load rows into a table, all or nothing; gives their number.

        Args:
            table: Name of the table.
            data: An Arrow table, batch or reader, a pandas or polars data frame, or a dict of columns.
            mode: ``create`` (fails if it exists), ``append``, ``replace`` or ``create_append``.
            schema: Schema of the table; the session's own when left out.
            temporary: Make a table that lives as long as this session.

        Raises:
            LakehouseClientError: The server refused; nothing was stored.
        """
        with self._adbc.cursor() as cursor, client_errors():
            return int(
                cursor.adbc_ingest(
                    table,
                    _arrow(data),
                    mode=mode,
                    db_schema_name=None if temporary else schema or self._schema,
                    temporary=temporary,
                )
            )

    # -- flights ------------------------------------------------------------------------------------

    def flights(self, pattern: str = "") -> list[Flight]:
        """The server's datasets whose name matches a pattern (``nyc.*``), all when left out.

        Raises:
            LakehouseClientError: The server refused.
        """
        with client_errors():
            return [
                Flight(
                    tuple(part.decode() for part in info.descriptor.path),
                    info.schema,
                    info.total_records,
                    info.total_bytes,
                    len(info.endpoints),
                )
                for info in self._flight.list_flights(pattern.encode(), self._call)
            ]

    def read_flight(
        self,
        path: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002 - the ticket's own word
        limit: int | None = None,
    ) -> pa.Table:
        """Read a dataset by its path; without a limit its endpoints are read in parallel.

        Args:
            path: ``[catalog, schema, table]``; the first two may be left out.
            columns: Which columns to read, all when left out.
            filter: A SQL predicate.
            limit: The most rows to read.

        Raises:
            LakehouseClientError: There is no such dataset, or the ticket is wrong.
        """
        wish = {"columns": list(columns) if columns is not None else None, "filter": filter, "limit": limit}
        wish = {key: value for key, value in wish.items() if value is not None}
        with client_errors():
            if limit is not None:
                return self._read(json.dumps({"path": list(path), **wish}).encode())
            info = self._flight.get_flight_info(flight.FlightDescriptor.for_path(*path), self._call)
            tickets = [json.dumps({**json.loads(e.ticket.ticket), **wish}).encode() for e in info.endpoints]
            with ThreadPoolExecutor(max_workers=min(8, len(tickets))) as pool:
                return pa.concat_tables(pool.map(self._read, tickets))

    def _read(self, ticket: bytes) -> pa.Table:
        return self._flight.do_get(flight.Ticket(ticket), self._call).read_all()

    # -- actions ------------------------------------------------------------------------------------

    def call(
        self, name: str, request: Mapping[str, Any] | None = None, on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        """Run an action by its name; gives its final result.

        Args:
            name: Name of the action, such as ``samples.load``.
            request: Its request body.
            on_progress: Called with the share done (0 to 1) and a message while a long action runs.

        Raises:
            LakehouseClientError: The action failed.
        """
        final: dict[str, Any] | None = None
        with client_errors():
            action = flight.Action(name, json.dumps(dict(request or {})).encode())
            for result in self._flight.do_action(action, self._call):
                body = json.loads(result.body.to_pybytes())
                if set(body) == {"progress", "message"}:
                    if on_progress is not None:
                        on_progress(body["progress"], body["message"])
                else:
                    final = body
        if final is None:
            raise LakehouseClientError("FAILED", f"{name} ended without a result")
        return final

    def close(self) -> None:
        """End the session: open transactions are rolled back, temporary tables dropped."""
        with client_errors():
            self._adbc.close()
            self._flight.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _arrow(data: Any) -> Any:
    """The data in a form that ADBC takes."""
    if isinstance(data, Mapping):
        return pa.table(dict(data))
    if hasattr(data, "__arrow_c_stream__") or isinstance(data, pa.RecordBatch | pa.RecordBatchReader):
        return data
    if hasattr(data, "to_arrow"):
        return data.to_arrow()
    return pa.Table.from_pandas(data, preserve_index=False)
