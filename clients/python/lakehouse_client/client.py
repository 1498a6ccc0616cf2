"""The connection: SQL goes over ADBC, flights and actions over pyarrow.flight, all in one session."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight

from lakehouse_client import objects, searches, uploads
from lakehouse_client.actions import Actions, PreviewResponse, RunResponse
from lakehouse_client.blocking import interruptible
from lakehouse_client.channel import Access, Channel, Pem, open_channel
from lakehouse_client.data_frames import to_record_batches
from lakehouse_client.errors import LakehouseClientError, client_errors
from lakehouse_client.messages import OnPart, OnProgress, decode, encode
from lakehouse_client.objects import Source, StoredObject, Target
from lakehouse_client.result import Result
from lakehouse_client.searches import Queries

DEFAULT_URI = "grpc://127.0.0.1:31337"
Mode = Literal["create", "append", "replace", "create_append"]
Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any] | pa.RecordBatch | pa.Table
R = TypeVar("R")
_MAX_READERS = 8
_TEXTS_PER_CALL = 256


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
    catalog: str | None = None,
    schema: str | None = None,
    tls_root_certs: Pem | None = None,
    tls_client_cert: Pem | None = None,
    tls_client_key: Pem | None = None,
    timeout_s: float | None = None,
) -> Client:
    """Connect to a server and open a session.

    Args:
        uri: ``grpc://host:port``, or ``grpc+tls://host:port``.
        token: A bearer token or API key.
        user: User name, with ``password``.
        password: Password, with ``user``.
        catalog: The catalog that names without one refer to.
        schema: The schema that names without one refer to.
        tls_root_certs: PEM certificates to trust instead of the system's: their bytes, or a file.
        tls_client_cert: PEM certificate to show to a server that asks for one, with ``tls_client_key``.
        tls_client_key: PEM key of that certificate.
        timeout_s: How long any one call may take, in seconds, the reading of its result included.

    Raises:
        LakehouseClientError: The server cannot be reached or refuses.
    """
    access = Access(token, user, password, tls_root_certs, tls_client_cert, tls_client_key, timeout_s)
    channel = open_channel(uri, access)
    try:
        channel.enter(catalog, schema)
    except BaseException:
        channel.close()
        raise
    return Client(channel)


class Client:
    """A session with a server; use it as a context manager. Made by ``connect``.

    A client is for one thread at a time.

    Attributes:
        actions: The server's actions as typed methods: ``client.actions.samples.load(name="nyc")``.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.actions = Actions(self._act)

    # -- SQL ----------------------------------------------------------------------------------------

    def sql(self, query: str, parameters: Parameters | None = None) -> Result:
        """Run a statement and stream its rows.

        Args:
            query: The statement.
            parameters: Values for ``?`` or ``$1`` in order, for ``$name`` by name, or an Arrow table with a
                row for each execution.

        Raises:
            LakehouseClientError: The statement is wrong or failed.
        """
        cursor = self._channel.sql.cursor()
        try:
            with client_errors():
                reader, rows = _run(cursor, query, parameters)
        except BaseException:
            with suppress(adbc.Error):  # of a server that is gone
                cursor.close()
            raise
        return Result(reader, rows, cursor.adbc_cancel, cursor.close)

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        """Run a statement for its effect; gives the number of rows affected, or -1 where it is unknown.

        Args:
            statement: The statement.
            parameters: As in ``sql``; with a table of several rows the statement runs once for each.

        Raises:
            LakehouseClientError: The statement is wrong or failed; nothing has changed.
        """
        with client_errors(), self._channel.sql.cursor() as cursor:
            if parameters is None:
                update = cursor.adbc_statement
                update.set_sql_query(statement)
                return int(interruptible(update.execute_update, update.cancel))
            cursor.executemany(statement, _rows_of(parameters))
            return int(cursor.rowcount)

    def begin(self) -> None:
        """Open a transaction; from now on the session sees one state of every table, and its own changes.

        Raises:
            LakehouseClientError: One is open already.
        """
        self.execute("BEGIN")

    def commit(self) -> None:
        """Make the changes of the transaction visible to all, and end it.

        Raises:
            LakehouseClientError: The commit failed (``COMMIT_CONFLICT``: someone else was first); nothing
                has changed, and the transaction has ended.
        """
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Forget the changes of the transaction, and end it.

        Raises:
            LakehouseClientError: None is open.
        """
        self.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction for the length of a ``with``: committed at its end, rolled back on an error.

        Raises:
            LakehouseClientError: The commit failed; nothing has changed.
        """
        self.begin()
        try:
            yield
        except BaseException:
            self._give_up()
            raise
        self.commit()

    def _give_up(self) -> None:
        """Roll back for an error's sake, which is not to be hidden by another one."""
        try:
            self.rollback()
        except LakehouseClientError:
            return

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
            data: An Arrow table, record batch or reader, a pandas or polars data frame (of pandas a named
                index becomes a column, an unnamed one is dropped), or a dict of columns.
            mode: ``create`` (fails if it exists), ``append``, ``replace`` or ``create_append``.
            schema: Schema of the table; the session's own when left out.
            temporary: Make a table that lives as long as this session.

        Raises:
            LakehouseClientError: The server refused; nothing was stored.
            TypeError: The data is of another kind.
        """
        batches = to_record_batches(data)
        with client_errors(), self._channel.sql.cursor() as cursor:
            return int(
                cursor.adbc_ingest(table, batches, mode=mode, db_schema_name=schema, temporary=temporary)
            )

    # -- flights ------------------------------------------------------------------------------------

    def flights(self, pattern: str | None = None) -> list[Flight]:
        """The server's datasets whose name matches a pattern (``nyc.*``), all when left out.

        Raises:
            LakehouseClientError: The server refused.
        """
        criteria = (pattern or "").encode()
        with client_errors():
            return [
                Flight(
                    tuple(part.decode() for part in info.descriptor.path),
                    info.schema,
                    info.total_records,
                    info.total_bytes,
                    len(info.endpoints),
                )
                for info in self._channel.flight.list_flights(criteria, self._channel.call)
            ]

    def read_flight(
        self,
        path: Sequence[str] | str,
        *,
        columns: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002 - the ticket's own word
        limit: int | None = None,
    ) -> pa.Table:
        """Read a dataset by its path; without a limit its endpoints are read in parallel.

        Args:
            path: Catalog, schema and table, the first two of which may be left out; or these with dots
                between them, ``nyc.flights``.
            columns: Which columns to read, all when left out.
            filter: A SQL predicate.
            limit: The most rows to read.

        Raises:
            LakehouseClientError: There is no such dataset, or the ticket is wrong.
        """
        parts = path.split(".") if isinstance(path, str) else list(path)
        wish = {"columns": None if columns is None else list(columns), "filter": filter, "limit": limit}
        wish = {key: value for key, value in wish.items() if value is not None}
        with client_errors():
            if limit is not None:
                return self._read_all([json.dumps({"path": parts, **wish}).encode()])
            descriptor = flight.FlightDescriptor.for_path(*parts)
            info = self._channel.flight.get_flight_info(descriptor, self._channel.call)
            return self._read_all(
                [json.dumps({**json.loads(end.ticket.ticket), **wish}).encode() for end in info.endpoints]
            )

    def _read_all(self, tickets: Sequence[bytes]) -> pa.Table:
        """The rows of all tickets, in their order; an error or interrupt ends the other reads too."""
        readers: list[flight.FlightStreamReader] = []

        def read(ticket: bytes) -> pa.Table:
            reader = self._channel.flight.do_get(flight.Ticket(ticket), self._channel.call)
            readers.append(reader)
            return reader.read_all()

        with ThreadPoolExecutor(min(_MAX_READERS, len(tickets))) as pool:
            try:
                return pa.concat_tables(pool.map(read, tickets))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for reader in readers:
                    reader.cancel()
                raise

    # -- objects ------------------------------------------------------------------------------------

    def put_object(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        if_absent: bool = False,
        sha256: str | None = None,
        content_type: str | None = None,
    ) -> StoredObject:
        """Put an object into a bucket, whole or not at all; it is sent in pieces, however large it is.

        Args:
            bucket: The bucket.
            key: The object's key.
            source: Bytes, the path of a file, or a file that is open for reading bytes.
            if_absent: Fail if there is an object of that key.
            sha256: Fail unless this is the hash of what arrives.
            content_type: Media type, which only buckets of S3 stores keep.

        Raises:
            LakehouseClientError: The server refused; nothing was stored.
            OSError: The file cannot be read; nothing was stored.
        """
        wish = {"if_absent": if_absent, "sha256": sha256, "content_type": content_type}
        return objects.put(self._channel, bucket, key, source, {k: v for k, v in wish.items() if v})

    def get_object(self, bucket: str, key: str, target: Target, *, verify: bool = False) -> StoredObject:
        """Read an object into a file, in pieces, however large it is.

        Args:
            bucket: The bucket.
            key: The object's key.
            target: The path of a file, which is replaced when all has come, or a file that is open for
                writing bytes.
            verify: Have the content hashed at both ends and compared.

        Raises:
            LakehouseClientError: There is no such object, or it came spoiled.
            OSError: The file cannot be written.
        """
        return objects.get(self._channel, bucket, key, target, verify=verify)

    def read_object(self, bucket: str, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The content of an object, or a part of it.

        Args:
            bucket: The bucket.
            key: The object's key.
            offset: The first byte.
            length: How many bytes, all the rest when left out.

        Raises:
            LakehouseClientError: There is no such object.
        """
        return objects.read(self._channel, bucket, key, offset, length)

    # -- ingest -------------------------------------------------------------------------------------

    def ingest_file(
        self,
        source: uploads.Source,
        table: str,
        *,
        db_schema: str | None = None,
        catalog: str | None = None,
        on_sent: Callable[[int], None] | None = None,
        **options: Any,
    ) -> RunResponse:
        """Send a file, whose rows become part of a table in one commit, or none of them.

        Args:
            source: The path of a file, or a file that is open for reading bytes.
            table: The table, which is made where there is none.
            db_schema: Its schema; the session's own when left out.
            catalog: Its catalog; the session's own when left out.
            on_sent: Told how many bytes were sent with each piece.
            options: As for the action ``ingest.file``: ``mode``, ``keys``, ``key``, ``on_error``, ``types`` …

        Raises:
            LakehouseClientError: The server refused; nothing was stored.
            OSError: The file cannot be read; nothing was stored.
        """
        path = uploads.table_path(catalog, db_schema, table)
        return uploads.file(self._channel, path, source, options, on_sent)

    def preview_file(
        self,
        source: uploads.Source,
        table: str,
        *,
        db_schema: str | None = None,
        catalog: str | None = None,
        limit: int = 20,
        on_sent: Callable[[int], None] | None = None,
        **options: Any,
    ) -> PreviewResponse:
        """Send a file to see what ``ingest_file`` would make of it; nothing is stored.

        Args:
            source: The path of a file, or a file that is open for reading bytes.
            table: The table that it is meant for.
            db_schema: Its schema; the session's own when left out.
            catalog: Its catalog; the session's own when left out.
            limit: How many rows to give.
            on_sent: Told how many bytes were sent with each piece.
            options: How it is to be read, as for the action ``ingest.preview``: ``types``, ``format`` …

        Raises:
            LakehouseClientError: The server refused, or the file cannot be understood.
            OSError: The file cannot be read.
        """
        path = uploads.table_path(catalog, db_schema, table)
        return uploads.preview(self._channel, path, source, limit, options, on_sent)

    def ingest_rows(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        table: str,
        *,
        db_schema: str | None = None,
        catalog: str | None = None,
        **options: Any,
    ) -> RunResponse:
        """Send Arrow rows, which become part of a table in one commit, or none of them.

        Args:
            rows: The rows.
            table: The table, which is made where there is none.
            db_schema: Its schema; the session's own when left out.
            catalog: Its catalog; the session's own when left out.
            options: ``mode``, ``keys``, ``key`` and ``evolve``, as for the action ``ingest.file``.

        Raises:
            LakehouseClientError: The server refused; nothing was stored.
        """
        path = uploads.table_path(catalog, db_schema, table)
        batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
        return uploads.rows(self._channel, path, rows.schema, batches, options)

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        purpose: Literal["document", "query"] = "document",
    ) -> pa.FixedSizeListArray:
        """Turn texts into vectors of float32, by any number of calls of ``ai.embed``.

        Args:
            texts: The texts.
            model: One of ``ai.models``; the server's default one when left out.
            purpose: Whether they are to be found, or to search by.

        Raises:
            LakehouseClientError: The model does not answer, or a text is too long.
        """
        parts: list[pa.RecordBatch] = []

        def add(part: dict[str, Any]) -> None:
            parts.extend(pa.ipc.open_stream(base64.b64decode(part["vectors"])))

        request: dict[str, Any] = {"purpose": purpose} | ({"model": model} if model is not None else {})
        dimension = 0
        for start in range(0, max(1, len(texts)), _TEXTS_PER_CALL):
            batch = list(texts[start : start + _TEXTS_PER_CALL])
            dimension = self.call("ai.embed", {**request, "texts": batch}, on_part=add)["model"]["dimension"]
        vectors = [part.column("vector") for part in parts]
        return pa.concat_arrays(vectors or [pa.array([], pa.list_(pa.float32(), dimension))])

    def search_vectors(
        self,
        index: str,
        queries: str | Sequence[str] | Sequence[Sequence[float]],
        k: int | None = None,
        *,
        ef: int | None = None,
        where: str = "",
        mode: Literal["vector", "lexical", "hybrid"] = "vector",
        rerank: str | None = None,
        candidates: int | None = None,
        profile: str | None = None,
    ) -> pa.Table:
        """The rows of a vector index that answer one or many queries best; see ``vectors.search``.

        Its columns are ``query`` (from 0), ``rank`` (from 1), ``score``, those of the index, and in between
        ``vector_rank`` and ``lexical_rank`` of a hybrid search and ``rerank_score`` of a reranked one.

        Args:
            index: The name of the index.
            queries: A text, several texts, or vectors of the index's dimension.
            k: How many rows to find for each; what the profile says, else 10, when left out.
            ef: Effort of the search; the index's own when left out.
            where: SQL predicate over the table that the vectors were made from.
            mode: By what rows are found: their vectors, their words (``lexical``) or both.
            rerank: One of ``ai.models`` that orders what was found anew; the server's default one when empty.
            candidates: How many each side of a hybrid search gives, and how many are reranked; 100 when left
                out.
            profile: The profile to search with, ``none`` for none; the session's own when left out.

        Raises:
            LakehouseClientError: There is no such index, or a query does not fit.
        """
        listed = [queries] if isinstance(queries, str) else list(queries)
        others = {"k": k, "ef": ef, "rerank": rerank, "candidates": candidates, "profile": profile}
        request: dict[str, Any] = {"index": index, "filter": where, "mode": mode}
        request |= {name: value for name, value in others.items() if value is not None}
        packed = b""
        if not listed or isinstance(listed[0], str):
            request["texts"] = listed
        else:
            vectors = [array("f", cast("Sequence[float]", vector)) for vector in listed]
            if len({len(vector) for vector in vectors}) > 1:
                raise LakehouseClientError("INVALID_REQUEST", "the queries are of several dimensions")
            request["dimension"] = len(vectors[0])
            if sys.byteorder == "big":
                for vector in vectors:
                    vector.byteswap()
            packed = b"\0" + b"".join(vector.tobytes() for vector in vectors)
        with client_errors():
            return self._read_all([json.dumps({"search": request}).encode() + packed])

    def hnsw_trials(self, index: str = "", evaluation: str = "") -> pa.Table:
        """What was measured of vector indexes, in the columns of ``system.hnsw_trials``.

        Args:
            index: Only of this one.
            evaluation: Only with this evaluation set.

        Raises:
            LakehouseClientError: There is no such index.
        """
        told = self.call("hnsw.trials", {"index": index, "evaluation": evaluation})
        with client_errors():
            return self._read_all([base64.b64decode(told["ticket"])])

    def stream_searches(
        self,
        index: str,
        queries: Iterable[Queries],
        k: int | None = None,
        *,
        ef: int | None = None,
        where: str = "",
        profile: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The nearest rows of an index to queries that keep coming, in one call; see ``search_vectors``.

        Queries are taken by a thread while what they find is read, and no faster than that. ``query`` counts
        all of them from 0. Closing the iterator stops the call.

        Args:
            index: The name of the index.
            queries: Batches of texts, or of vectors: lists, or record batches with a column ``text`` or
                ``vector``, of which NULL finds nothing.
            k: How many rows to find for each query; what the profile says, else 10, when left out.
            ef: Effort of the search; the index's own when left out.
            where: SQL predicate over the table that the vectors were made from.
            profile: The profile to search with, ``none`` for none; the session's own when left out.

        Raises:
            LakehouseClientError: There is no such index, or a query does not fit: it says which.
        """
        said = {
            "exchange": "vectors.search",
            "index": index,
            "k": k,
            "ef": ef,
            "filter": where,
            "profile": profile,
        }
        return searches.stream(self._channel, said, iter(queries))

    # -- actions ------------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        request: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        on_part: OnPart[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Run an action by its name; gives its final result.

        Args:
            name: Name of the action, such as ``samples.load``.
            request: Its request body.
            on_progress: Called with the share done (0 to 1) and a message while a long action runs.
            on_part: Called with each piece of a result that comes in pieces, such as a generated text.

        Raises:
            LakehouseClientError: The action failed.
        """
        final: dict[str, Any] | None = None
        for body in self._results(flight.Action(name, json.dumps(dict(request or {})).encode())):
            if set(body) == {"part"}:
                if on_part is not None:
                    on_part(body["part"])
            elif set(body) != {"progress", "message"}:
                final = body
            elif on_progress is not None:
                on_progress(body["progress"], body["message"])
        if final is None:
            raise LakehouseClientError("FAILED", f"{name} ended without a result")
        return final

    def _results(self, action: flight.Action) -> Iterator[dict[str, Any]]:
        with client_errors():
            results = iter(self._channel.flight.do_action(action, self._channel.call))
        while True:
            with client_errors():
                result = next(results, None)
            if result is None:
                return
            yield json.loads(result.body.to_pybytes())

    def _act(
        self,
        name: str,
        request: Any,
        response: type[R],
        on_progress: OnProgress | None = None,
        part: type[Any] | None = None,
        on_part: OnPart[Any] | None = None,
    ) -> R:
        told = None
        if part is not None and on_part is not None:
            kind, tell = part, on_part

            def told(piece: dict[str, Any]) -> None:
                tell(decode(kind, piece))

        return decode(response, self.call(name, encode(request), on_progress, told))

    # -- the end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the session: open transactions are rolled back, temporary tables dropped."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(cursor: adbc.Cursor, query: str, parameters: Parameters | None) -> tuple[pa.RecordBatchReader, int]:
    """The rows of a statement and their number; one without parameters needs no preparation."""
    if parameters is not None:
        cursor.execute(query, _row_of(parameters))
        return cursor.fetch_record_batch(), int(cursor.rowcount)
    statement = cursor.adbc_statement
    statement.set_sql_query(query)
    stream, rows = interruptible(statement.execute_query, statement.cancel)
    return pa.RecordBatchReader.from_stream(stream), int(rows)


def _row_of(parameters: Parameters) -> Any:
    if isinstance(parameters, Mapping):
        return pa.RecordBatch.from_pylist([dict(parameters)])
    return parameters


def _rows_of(parameters: Parameters) -> Any:
    row = _row_of(parameters)
    return row if isinstance(row, pa.RecordBatch | pa.Table) else [row]
