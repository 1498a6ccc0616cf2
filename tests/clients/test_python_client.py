"""The Python client, against a real server."""

from __future__ import annotations

import copy
import decimal
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import adbc_driver_manager
import lakehouse_client.data_frames as data_frames
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from lakehouse_client import Client, LakehouseClientError, connect
from lakehouse_client.errors import client_errors, parse
from lakehouse_client.messages import decode, encode

if TYPE_CHECKING:
    from conftest import Server

ENDLESS = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(1_000_000) b"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.uri) as opened:
        yield opened


@pytest.fixture
def table() -> str:
    """The name of a table for one test."""
    return f"client_{uuid4().hex}"


def values(client: Client, query: str, parameters: Any = None) -> list[dict[str, Any]]:
    return client.sql(query, parameters).table().to_pylist()


def code_of(error: pytest.ExceptionInfo[LakehouseClientError]) -> str:
    return error.value.code


# -- connecting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "code", "text"),
    [
        ("127.0.0.1:31337", "INVALID_URI", "expected grpc://host:port"),
        ("http://127.0.0.1:31337", "INVALID_URI", "found 'http://127.0.0.1:31337'"),
        ("grpc://127.0.0.1", "INVALID_URI", "expected grpc://host:port"),
        ("grpc://127.0.0.1:1", "UNREACHABLE", "grpc://127.0.0.1:1: no server answers at this address"),
        ("grpc://no-such-host.invalid:1", "UNREACHABLE", "the host name is not known"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_readable_line(uri: str, code: str, text: str) -> None:
    with pytest.raises(LakehouseClientError) as error:
        connect(uri)
    assert code_of(error) == code
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_tls_to_a_server_without_it_says_so(server: Server) -> None:
    with pytest.raises(LakehouseClientError, match=r"\[TLS_FAILED\] .*the TLS handshake failed"):
        connect(server.uri.replace("grpc://", "grpc+tls://"))


def test_certificates_that_cannot_be_read_are_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(LakehouseClientError, match=r"\[TLS_FAILED\] cannot read .*none\.pem"):
        connect(server.uri, tls_root_certs=tmp_path / "none.pem")


def test_schema_and_catalog_hold_for_sql_actions_and_ingest(server: Server) -> None:
    with connect(server.uri, catalog="lake", schema="nyc") as client:
        assert values(client, "SELECT count(*) AS n FROM airlines") == [{"n": 16}]
        assert len(client.actions.catalog.snapshots(table="airlines").snapshots) == 1
        client.ingest("client_in_session_schema", {"a": [1]}, mode="replace")
        assert values(client, "SELECT * FROM nyc.client_in_session_schema") == [{"a": 1}]
        client.execute("DROP TABLE nyc.client_in_session_schema")


@pytest.mark.parametrize(("kind", "code"), [("schema", "SCHEMA_NOT_FOUND"), ("catalog", "CATALOG_NOT_FOUND")])
def test_an_unknown_schema_or_catalog_is_refused(server: Server, kind: str, code: str) -> None:
    with pytest.raises(LakehouseClientError, match=f"there is no {kind} 'nowhere'") as error:
        connect(server.uri, **{kind: "nowhere"})
    assert code_of(error) == code


@pytest.mark.parametrize("who", [{}, {"token": "anything"}, {"user": "someone", "password": "secret"}])
def test_sql_and_actions_share_a_session_that_ends_with_the_client(server: Server, who: Any) -> None:
    with connect(server.uri) as watcher:
        before = watcher.actions.server.status().sessions
        with connect(server.uri, **who) as client:
            client.ingest("mine", {"a": [1]}, temporary=True)
            assert values(client, "SELECT * FROM mine") == [{"a": 1}]
            assert client.actions.server.status().sessions == before + 1
        assert watcher.actions.server.status().sessions == before


def test_closing_is_harmless_when_the_server_is_gone(fresh_server: Server) -> None:
    client = connect(fresh_server.uri)
    fresh_server.kill()
    with pytest.raises(LakehouseClientError) as error:
        client.sql("SELECT 1").table()
    assert code_of(error) == "UNREACHABLE"
    client.close()


# -- SQL ------------------------------------------------------------------------------------------------


def test_results_in_every_form(client: Client) -> None:
    query = "SELECT carrier, name FROM nyc.airlines ORDER BY carrier"
    expected = client.sql(query).table()
    assert expected.num_rows == 16
    assert client.sql(query).reader().read_all().equals(expected)
    assert pa.Table.from_batches(list(client.sql(query))).equals(expected)
    assert client.sql(query).polars().equals(pl.from_arrow(expected))
    frame = client.sql(query).pandas(types_mapper=pd.ArrowDtype)
    assert list(frame["carrier"]) == expected["carrier"].to_pylist()
    with client.sql(query) as result:
        assert result.schema == expected.schema
        assert result.rows in (-1, 16)


def test_results_of_no_rows_keep_their_columns(client: Client) -> None:
    assert client.sql("SELECT carrier FROM nyc.airlines WHERE false").table().schema.names == ["carrier"]


def test_large_results_stream(client: Client) -> None:
    sizes = [batch.num_rows for batch in client.sql("SELECT range AS n FROM range(3_000_000)")]
    assert sum(sizes) == 3_000_000
    assert len(sizes) > 5


def test_a_result_is_read_once(client: Client) -> None:
    result = client.sql("SELECT 1")
    result.table()
    for again in (result.table, result.reader, result.polars):
        with pytest.raises(LakehouseClientError, match="RESULT_READ"):
            again()
    result.close()


def test_giving_up_a_result_stops_the_query(client: Client) -> None:
    batches = iter(client.sql("SELECT a.range AS n FROM range(2_000_000_000) a"))
    assert next(batches).num_rows > 0
    batches.close()
    deadline = time.monotonic() + 60
    while client.actions.server.status().running_statements and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.actions.server.status().running_statements == 0


@pytest.mark.parametrize("missing", ["pandas", "polars"])
def test_an_absent_library_is_named(client: Client, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with client.sql("SELECT 1") as result:
        with pytest.raises(ImportError, match=rf"{missing} is not installed: pip install"):
            getattr(result, missing)()
        assert result.table().num_rows == 1


@pytest.mark.parametrize(
    ("query", "parameters", "expected"),
    [
        ("SELECT ? AS a, ? AS b", [1, "x"], [{"a": 1, "b": "x"}]),
        ("SELECT $2 AS a, $1 AS b", [1, "x"], [{"a": "x", "b": 1}]),
        ("SELECT $b AS a, $a AS b", {"a": 1, "b": "x"}, [{"a": "x", "b": 1}]),
        ("SELECT ? AS a", [None], [{"a": None}]),
        ("SELECT ? AS a", [decimal.Decimal("1.50")], [{"a": decimal.Decimal("1.50")}]),
        ("SELECT ? AS a", [datetime(2020, 1, 2, tzinfo=UTC)], [{"a": datetime(2020, 1, 2, tzinfo=UTC)}]),
        ("SELECT ? AS a", [b"\xff\x00"], [{"a": b"\xff\x00"}]),
        ("SELECT ? AS a", [[1, None]], [{"a": [1, None]}]),
        ("SELECT ? AS a", pa.table({"0": [1, 2]}), [{"a": 1}, {"a": 2}]),
    ],
)
def test_parameters(client: Client, query: str, parameters: Any, expected: Any) -> None:
    assert values(client, query, parameters) == expected


def test_execute_gives_the_rows_affected(client: Client) -> None:
    client.execute("CREATE TEMP TABLE affected (a INTEGER, b VARCHAR)")
    assert client.execute("INSERT INTO affected VALUES (1, 'x'), (2, 'y')") == 2
    assert client.execute("INSERT INTO affected VALUES (?, ?)", [3, "z"]) == 1
    assert client.execute("INSERT INTO affected VALUES ($a, $b)", {"b": "w", "a": 4}) == 1
    assert client.execute("INSERT INTO affected VALUES (?, ?)", pa.table({"a": [5, 6], "b": ["v", "u"]})) == 2
    assert client.execute("DELETE FROM affected WHERE a > 1") == 5


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELEC 1", "SQL_SYNTAX"),
        ("SELECT nothing FROM nyc.airlines", "SQL_INVALID"),
        ("SELECT * FROM nyc.nowhere", "TABLE_NOT_FOUND"),
        ("SELECT * FROM nowhere.airlines", "SCHEMA_NOT_FOUND"),
        ("SELECT error('boom')", "SQL_FAILED"),
        (
            "SELECT n, if(n > 2_000_000, error('late'), 0) FROM (SELECT range AS n FROM range(3_000_000))",
            "SQL_FAILED",
        ),
    ],
)
def test_errors_are_the_servers_own_sentence(client: Client, query: str, code: str) -> None:
    with pytest.raises(LakehouseClientError) as error:
        client.sql(query).table()
    assert code_of(error) == code
    assert not re.search(r"gRPC|Detail|FlightSQL|Traceback|\n", str(error.value))
    assert values(client, "SELECT 1 AS a") == [{"a": 1}], "the session goes on"


def test_errors_can_be_copied_to_another_process(client: Client) -> None:
    with pytest.raises(LakehouseClientError) as error:
        client.execute("SELEC 1")
    for twin in (pickle.loads(pickle.dumps(error.value)), copy.copy(error.value)):
        assert (twin.code, twin.message, str(twin)) == (
            error.value.code,
            error.value.message,
            str(error.value),
        )


def test_a_call_ends_after_the_time_allowed(server: Server) -> None:
    with connect(server.uri, timeout_s=0.5) as client:
        for call in (
            lambda: client.sql(ENDLESS).table(),
            lambda: client.execute(f"CREATE TEMP TABLE t AS {ENDLESS}"),
        ):
            with pytest.raises(LakehouseClientError) as error:
                call()
            assert code_of(error) == "TIMEOUT"


def test_ctrl_c_ends_a_query_here_and_on_the_server(server: Server) -> None:
    program = f"""
        from lakehouse_client import connect
        with connect({server.uri!r}) as client:
            print("connected", flush=True)
            try:
                client.sql({ENDLESS!r}).table()
            except KeyboardInterrupt:
                print("interrupted", client.sql("SELECT 1 AS a").table().to_pylist(), flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with connect(server.uri) as watcher, process:

        def runs() -> bool:
            told = f"SELECT 1 FROM system.statements WHERE state = 'running' AND sql = '{ENDLESS}'"
            return bool(watcher.sql(told).table().num_rows)

        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        deadline = time.monotonic() + 60
        while not runs() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("interrupted [{'a': 1}]\n", 0), err
        assert not runs()


# -- transactions ---------------------------------------------------------------------------------------


def count(client: Client, table: str) -> int:
    return int(values(client, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def test_a_transaction_is_seen_by_others_only_when_it_is_committed(server: Server, table: str) -> None:
    with connect(server.uri) as client, connect(server.uri) as other:
        client.ingest(table, {"a": [1]})
        with client.transaction():
            client.ingest(table, {"a": [2, 3]}, mode="append")
            assert (count(client, table), count(other, table)) == (3, 1)
        assert (count(client, table), count(other, table)) == (3, 3)


def test_an_error_rolls_a_transaction_back_and_is_not_hidden(client: Client, table: str) -> None:
    client.ingest(table, {"a": [1]})

    def append_and(fail: Callable[[], Any]) -> None:
        with client.transaction():
            client.ingest(table, {"a": [2]}, mode="append")
            fail()

    with pytest.raises(ZeroDivisionError):
        append_and(lambda: 1 // 0)
    with pytest.raises(LakehouseClientError, match="SQL_SYNTAX"):
        append_and(lambda: client.execute("SELEC 1"))
    assert count(client, table) == 1
    client.ingest(table, {"a": [2]}, mode="append")
    assert count(client, table) == 2, "and the session is in no transaction"


def test_begin_commit_and_rollback(client: Client, table: str) -> None:
    client.ingest(table, {"a": [1]})
    for end, rows in ((client.rollback, 1), (client.commit, 2)):
        client.begin()
        client.ingest(table, {"a": [2]}, mode="append")
        end()
        assert count(client, table) == rows
    for end in (client.rollback, client.commit):
        with pytest.raises(LakehouseClientError, match="TRANSACTION_STATE"):
            end()


def test_columns_may_be_written_with_their_schema_in_a_transaction(client: Client) -> None:
    """As SQLAlchemy writes them; in a transaction the server reads through views of other names."""
    query = "SELECT lake.nyc.airlines.carrier FROM nyc.airlines WHERE nyc.airlines.name LIKE 'United%'"
    assert values(client, query) == [{"carrier": "UA"}]
    with client.transaction():
        assert values(client, query) == [{"carrier": "UA"}]


# -- ingest ---------------------------------------------------------------------------------------------

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
FORMS = {
    "table": lambda: pa.Table.from_pylist(ROWS, SCHEMA),
    "batch": lambda: pa.RecordBatch.from_pylist(ROWS, SCHEMA),
    "reader": lambda: pa.Table.from_pylist(ROWS, SCHEMA).to_reader(),
    "dict": lambda: {"a": [1, 2], "b": ["x", None]},
    "pandas": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "pandas filtered": lambda: pd.DataFrame({"a": [0, 1, 2], "b": ["", "x", None]}).iloc[1:],
    "polars": lambda: pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_ingest_takes_data_of_any_library(client: Client, table: str, form: str) -> None:
    assert client.ingest(table, FORMS[form]()) == 2
    stored = client.sql(f"SELECT * FROM {table} ORDER BY a").table()
    assert stored.to_pylist() == ROWS
    assert stored.schema.names == ["a", "b"]


def test_ingest_takes_whatever_exports_an_arrow_stream(client: Client, table: str) -> None:
    class Exporter:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return FORMS["reader"]().__arrow_c_stream__(requested_schema)

    assert client.ingest(table, Exporter()) == 2


def test_a_named_index_of_pandas_becomes_a_column(client: Client, table: str) -> None:
    client.ingest(table, pd.DataFrame({"a": [1]}, index=pd.Index(["k"], name="key")))
    assert values(client, f"SELECT * FROM {table}") == [{"a": 1, "key": "k"}]


@pytest.mark.parametrize(
    "empty",
    [
        SCHEMA.empty_table(),
        SCHEMA.empty_table().to_reader(),
        pd.DataFrame({"a": pd.Series([], dtype="int64")}),
    ],
    ids=["table", "reader", "pandas"],
)
def test_data_without_rows_makes_a_table_without_rows(client: Client, table: str, empty: Any) -> None:
    assert client.ingest(table, empty) == 0
    assert client.sql(f"SELECT * FROM {table}").table().schema.names[0] == "a"


def test_large_tables_are_sent_in_pieces() -> None:
    reader = data_frames.to_record_batches(pa.table({"a": range(200_000)}))
    assert max(batch.num_rows for batch in reader) <= 65_536


def test_ingest_modes(client: Client, table: str) -> None:
    with pytest.raises(LakehouseClientError, match="TABLE_NOT_FOUND"):
        client.ingest(table, {"a": [1]}, mode="append")
    assert client.ingest(table, {"a": [1]}, mode="create_append") == 1
    assert client.ingest(table, {"a": [2]}, mode="create_append") == 1
    with pytest.raises(LakehouseClientError, match="TABLE_ALREADY_EXISTS"):
        client.ingest(table, {"a": [3]})
    assert count(client, table) == 2
    assert client.ingest(table, {"c": ["z"]}, mode="replace") == 1
    assert values(client, f"SELECT * FROM {table}") == [{"c": "z"}]


def test_ingest_says_what_it_takes(client: Client) -> None:
    with pytest.raises(TypeError, match=r"expected an Arrow table or reader, .* found int"):
        client.ingest("never", 5)


# -- flights --------------------------------------------------------------------------------------------


def test_flights_are_listed_by_pattern(client: Client) -> None:
    found = {item.path: item for item in client.flights("nyc.*")}
    assert {path[2] for path in found} >= {"airlines", "airports", "flights", "planes", "weather"}
    flights = found["lake", "nyc", "flights"]
    assert flights.rows == 336_776
    assert flights.bytes > 1_000_000
    assert flights.endpoints >= 1
    assert "carrier" in flights.schema.names
    assert len(client.flights()) >= len(found)
    assert client.flights("nothing.*") == []


def test_a_flight_is_read_by_path(client: Client) -> None:
    path = ["lake", "nyc", "flights"]
    assert client.read_flight(path).num_rows == 336_776
    assert client.read_flight("nyc.airlines").num_rows == 16
    few = client.read_flight(path, columns=["dest", "distance"], filter="distance > 4900", limit=3)
    assert few.schema.names == ["dest", "distance"]
    assert few.num_rows == 3
    wanted = client.read_flight(path, columns=["dest"], filter="dest = 'LAX'")
    assert (
        wanted.num_rows == values(client, "SELECT count(*) AS n FROM nyc.flights WHERE dest = 'LAX'")[0]["n"]
    )


def test_the_endpoints_of_a_flight_are_all_read(client: Client, table: str) -> None:
    client.ingest(table, {"a": [0]})
    for number in range(1, 5):
        client.ingest(table, {"a": [number]}, mode="append")
    listed = next(item for item in client.flights(f"main.{table}"))
    assert listed.endpoints > 1
    assert sorted(client.read_flight(listed.path)["a"].to_pylist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        ("nyc.nowhere", {}, "TABLE_NOT_FOUND"),
        ("nyc.airlines", {"columns": ["nothing"]}, "SQL_INVALID"),
        ("nyc.airlines", {"filter": "carrier = "}, "SQL_SYNTAX"),
        ("nyc.airlines", {"limit": -1}, "INVALID_REQUEST"),
        ([], {}, "INVALID_REQUEST"),
    ],
)
def test_errors_of_flights(client: Client, path: Any, options: Any, code: str) -> None:
    with pytest.raises(LakehouseClientError) as error:
        client.read_flight(path, **options)
    assert code_of(error) == code


# -- actions --------------------------------------------------------------------------------------------


def test_actions_are_typed(client: Client) -> None:
    described = client.actions.actions.describe(name="samples.load").actions
    assert [item.name for item in described] == ["samples.load"]
    assert described[0].streams
    assert described[0].request_schema["properties"]["name"]["default"] == "nyc"
    snapshot = client.actions.catalog.snapshots(table="airlines", db_schema="nyc").snapshots[-1]
    assert snapshot.current
    assert snapshot.timestamp.tzinfo is not None


def test_every_action_of_the_server_has_a_method(client: Client) -> None:
    for item in client.actions.actions.describe().actions:
        family, _, method = item.name.partition(".")
        assert callable(getattr(getattr(client.actions, family), method.replace(".", "_"))), item.name


def test_progress_is_told_while_an_action_runs(fresh_server: Server) -> None:
    told: list[tuple[float, str]] = []
    with connect(fresh_server.uri) as client:
        loaded = client.actions.samples.load(on_progress=lambda share, text: told.append((share, text)))
    assert {item.table: item.rows for item in loaded.tables}["flights"] == 336_776
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (len(shares) > 3, shares[-1]) == (True, 1.0)
    assert any("flights" in text for _, text in told)


def test_an_error_of_the_one_who_is_told_is_not_the_servers(client: Client) -> None:
    def stop(_: float, __: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        client.actions.samples.load(on_progress=stop)


def test_errors_of_actions(client: Client) -> None:
    with pytest.raises(LakehouseClientError, match=r"\[UNKNOWN_ACTION\]"):
        client.call("no.such.action")
    with pytest.raises(LakehouseClientError, match=r"\[INVALID_REQUEST\] samples.load: nam: "):
        client.call("samples.load", {"nam": "nyc"})
    with pytest.raises(LakehouseClientError, match="there is no sample 'other'"):
        client.actions.samples.load(name="other")


def test_requests_leave_defaults_to_the_server() -> None:
    from lakehouse_client import actions

    key = actions.ForeignKeyItem("fk", ["a"], "t", ["b"])
    request = actions.DeclareKeysRequest("x", foreign_keys=[key])
    assert encode(request) == {
        "table": "x",
        "foreign_keys": [{"name": "fk", "columns": ["a"], "ref_table": "t", "ref_columns": ["b"]}],
    }
    assert encode(actions.LoadRequest()) == {}


def test_results_of_newer_and_older_servers() -> None:
    from lakehouse_client import actions

    body = {"tables": [{"table": "t", "rows": 1, "new": True}], "newer": 1}
    assert decode(actions.LoadResponse, body) == actions.LoadResponse([actions.LoadedTable("t", 1)])
    with pytest.raises(LakehouseClientError, match=r"no LoadResponse .* do the versions differ"):
        decode(actions.LoadResponse, {"tables": [{"table": "t"}]})


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            pa.ArrowInvalid("[FlightSQL] [SQL_FAILED] x\n y. Detail: Python exception: InvalidArgument"),
            "SQL_FAILED",
            "x y",
        ),
        (
            flight.FlightUnavailableError(
                "Flight returned unavailable error, with message: failed to connect to all addresses"
            ),
            "UNREACHABLE",
            "no server answers at this address",
        ),
        (OSError("error reading from server: EOF"), "UNREACHABLE", "the connection to the server was lost"),
        (
            pa.ArrowInvalid(
                "Flight returned invalid argument error, with message: bad certificate. Detail: X"
            ),
            "FAILED",
            "bad certificate",
        ),
        (
            flight.FlightUnauthenticatedError("Flight returned unauthenticated error, with message: who?"),
            "UNAUTHENTICATED",
            "who?",
        ),
        (
            adbc_driver_manager.ProgrammingError(
                "INVALID_ARGUMENT: [FlightSQL] no (InvalidArgument; Prepare)",
                status_code=adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT,
            ),
            "FAILED",
            "no",
        ),
        (OSError(""), "FAILED", "OSError"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_transports_say_becomes_one_sentence(error: Exception, code: str, message: str) -> None:
    found = parse(error)
    assert (found.code, found.message) == (code, message)
    with pytest.raises(LakehouseClientError) as raised, client_errors():
        raise error
    assert raised.value.__cause__ is None


def test_a_client_is_used_from_another_thread_than_the_main_one(server: Server) -> None:
    found: list[Any] = []

    def work() -> None:
        with connect(server.uri) as client:
            found.append(values(client, "SELECT 1 AS a"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[{"a": 1}]]


def test_the_client_needs_nothing_of_the_server() -> None:
    program = """
        import sys
        import lakehouse_client
        strangers = {"flight_server", "lakehouse", "duckdb", "pyiceberg", "pydantic", "click", "rich"}
        print(sorted(strangers & {name.partition(".")[0] for name in sys.modules}))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr
