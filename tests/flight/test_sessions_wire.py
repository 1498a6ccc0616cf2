"""Sessions, options, transactions and prepared statements, spoken by hand."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from wire import action, bare, bare_action, command, cookie_options, put, query, unwrapped

from flight_server.protocol.messages import flight_class, message_class


def set_options(client, options=None, **values):
    request = flight_class("SetSessionOptionsRequest")()
    for name, value in values.items():
        target = request.session_options[name]
        if isinstance(value, bool):
            target.bool_value = value
        elif isinstance(value, float):
            target.double_value = value
        elif isinstance(value, str):
            target.string_value = value
        else:
            target.SetInParent()
    (result,) = bare_action(client, "SetSessionOptions", request, options)
    return {name: error.value for name, error in bare(result, "SetSessionOptionsResult").errors.items()}


def get_options(client, options=None):
    (result,) = bare_action(client, "GetSessionOptions", flight_class("GetSessionOptionsRequest")(), options)
    found = bare(result, "GetSessionOptionsResult").session_options
    return {name: value.string_value for name, value in found.items()}


def test_session_options_are_set_refused_and_erased(server):
    with server.client() as client:
        assert set_options(client, schema="nyc", TimeZone="Europe/Berlin") == {}
        assert get_options(client) == {"catalog": "lake", "schema": "nyc", "timezone": "Europe/Berlin"}
        assert query(client, "select count(*) as n from airlines").to_pydict() == {"n": [16]}
        assert set_options(
            client, nope="x", schema="nope", catalog="nope", TimeZone="Mars/Base", default_order=1.5
        ) == {
            "nope": 1,
            "schema": 2,
            "catalog": 2,
            "TimeZone": 2,
            "default_order": 2,
        }
        assert set_options(client, TimeZone=None, schema=None, catalog="LAKE") == {}
        assert get_options(client) == {"catalog": "lake", "schema": "main"}


def test_the_settings_of_one_session_are_not_anothers(server):
    with server.client() as one, server.client() as other:
        query(one, "set default_null_order = 'nulls_first'")
        order = "select x from (values (1), (null)) t(x) order by x"
        assert query(one, order).to_pydict() == {"x": [None, 1]}
        assert query(other, order).to_pydict() == {"x": [1, None]}
        query(one, "reset default_null_order")
        assert query(one, order).to_pydict() == {"x": [1, None]}


def test_a_cookie_carries_a_session_across_connections(server):
    seen: list[str] = []

    class Middleware(flight.ClientMiddleware):
        def received_headers(self, headers):
            for name, values in headers.items():
                if name.lower() == "set-cookie":
                    seen.append(values[0].split(";")[0].split("=")[1])

    class Factory(flight.ClientMiddlewareFactory):
        def start_call(self, info):
            return Middleware()

    with flight.FlightClient(server.uri, middleware=[Factory()]) as client:
        query(client, "create temp table carried as select 7 as x")
    options = cookie_options(seen[-1])
    with server.client() as other:
        assert query(other, "select x from carried", options).to_pydict() == {"x": [7]}
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(other, "select x from carried")
        (result,) = bare_action(other, "CloseSession", flight_class("CloseSessionRequest")(), options)
        assert bare(result, "CloseSessionResult").status == 1
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(other, "select x from carried", options)


def test_logging_in_gives_a_bearer_token_that_is_the_session(server):
    with server.client() as client:
        header = client.authenticate_basic_token("anyone", "anything")
        options = flight.FlightCallOptions(headers=[header])
        query(client, "create temp table mine as select 1 as x", options)
        assert query(client, "select x from mine", options).num_rows == 1
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(client, "select x from mine")


def test_two_sessions_have_temporary_tables_of_the_same_name(server):
    with server.client() as one, server.client() as other:
        query(one, "create temp table same as select 1 as x")
        query(other, "create temp table same as select 2 as x")
        assert query(one, "select x from same").to_pydict() == {"x": [1]}
        assert query(other, "select x from temp.same").to_pydict() == {"x": [2]}
        assert "same" in query(one, "show tables").to_pydict()["name"]


def begin(client) -> bytes:
    (result,) = action(client, "BeginTransaction", "ActionBeginTransactionRequest")
    return unwrapped(result, "ActionBeginTransactionResult").transaction_id


def end(client, transaction: bytes, how: int) -> None:
    action(client, "EndTransaction", "ActionEndTransactionRequest", transaction_id=transaction, action=how)


def ingest(client, name: str, table: pa.Table, **fields) -> int:
    options = {"if_not_exist": 1, "if_exists": 2}
    descriptor = command("CommandStatementIngest", table=name, table_definition_options=options, **fields)
    return put(client, descriptor, table)


def test_a_transaction_sees_its_own_rows_and_nobody_else_does_until_commit(server):
    rows = pa.table({"a": [1, 2, 3]})
    with server.client() as client, server.client() as other:
        transaction = begin(client)
        assert ingest(client, "tx_commit", rows, transaction_id=transaction) == 3
        assert ingest(client, "tx_commit", rows) == 3
        count = "select count(*) as n from tx_commit"
        assert query(client, count, transaction_id=transaction).to_pydict() == {"n": [6]}
        with pytest.raises(KeyError):
            query(other, count)
        end(client, transaction, 1)
        assert query(other, count).to_pydict() == {"n": [6]}
        with pytest.raises(KeyError, match="TRANSACTION_NOT_FOUND"):
            query(client, count, transaction_id=transaction)
        with pytest.raises(KeyError, match="TRANSACTION_NOT_FOUND"):
            end(client, transaction, 1)
        query(client, "drop table tx_commit")


def test_rollback_leaves_nothing(server):
    with server.client() as client:
        transaction = begin(client)
        ingest(client, "tx_rollback", pa.table({"a": [1]}), transaction_id=transaction)
        query(client, "create temp table tx_temp as select 1 as x", transaction_id=transaction)
        assert query(client, "select * from tx_temp", transaction_id=transaction).num_rows == 1
        end(client, transaction, 2)
        for name in ("tx_rollback", "tx_temp"):
            with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
                query(client, f"select * from {name}")
    leftovers = list((server.directory / "bucket").rglob("*tx_rollback*/**/*.parquet"))
    assert leftovers == []


def test_a_transaction_reads_the_snapshot_it_first_saw(server):
    with server.client() as client, server.client() as other:
        ingest(other, "tx_pin", pa.table({"a": [1]}))
        transaction = begin(client)
        count = "select count(*) as n from tx_pin"
        assert query(client, count, transaction_id=transaction).to_pydict() == {"n": [1]}
        ingest(other, "tx_pin", pa.table({"a": [2]}))
        assert query(other, count).to_pydict() == {"n": [2]}
        assert query(client, count, transaction_id=transaction).to_pydict() == {"n": [1]}
        end(client, transaction, 2)
        assert query(client, count).to_pydict() == {"n": [2]}
        query(client, "drop table tx_pin")


def test_closing_the_session_rolls_back(server):
    options = None
    with server.client() as client:
        header = client.authenticate_basic_token("closer", "x")
        options = flight.FlightCallOptions(headers=[header])
        (result,) = action(client, "BeginTransaction", "ActionBeginTransactionRequest", options)
        transaction = unwrapped(result, "ActionBeginTransactionResult").transaction_id
        ingest(client, "tx_closed", pa.table({"a": [1]}), transaction_id=transaction)
        bare_action(client, "CloseSession", flight_class("CloseSessionRequest")(), options)
        with pytest.raises(KeyError):
            end(client, transaction, 1)
        with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
            query(client, "select * from tx_closed")


def prepare(client, sql: str):
    (result,) = action(client, "CreatePreparedStatement", "ActionCreatePreparedStatementRequest", query=sql)
    return unwrapped(result, "ActionCreatePreparedStatementResult")


def bind(client, handle: bytes, table: pa.Table, kind: str = "CommandPreparedStatementQuery"):
    writer, metadata = client.do_put(command(kind, prepared_statement_handle=handle), table.schema)
    with writer:
        writer.write_table(table)
        writer.done_writing()
        return metadata.read()


def run(client, handle: bytes) -> pa.Table:
    info = client.get_flight_info(command("CommandPreparedStatementQuery", prepared_statement_handle=handle))
    table = client.do_get(info.endpoints[0].ticket).read_all()
    assert table.schema.equals(info.schema)
    return table


def test_a_prepared_query_tells_its_schemas_and_runs_for_every_row(server):
    with server.client() as client:
        prepared = prepare(
            client, "select carrier, count(*) as n from nyc.flights where month = ? and dest = ? group by 1"
        )
        assert prepared.is_update is False
        dataset = pa.ipc.read_schema(pa.py_buffer(prepared.dataset_schema))
        parameters = pa.ipc.read_schema(pa.py_buffer(prepared.parameter_schema))
        assert dataset.names == ["carrier", "n"]
        assert [pa.types.is_integer(parameters.types[0]), parameters.types[1]] == [True, pa.string()]
        handle = prepared.prepared_statement_handle
        bind(client, handle, pa.table({"0": [1], "1": ["LAX"]}))
        one = run(client, handle)
        bind(client, handle, pa.table({"0": [1, 1], "1": ["LAX", "LAX"]}))
        assert run(client, handle).num_rows == 2 * one.num_rows
        action(
            client,
            "ClosePreparedStatement",
            "ActionClosePreparedStatementRequest",
            prepared_statement_handle=handle,
        )
        action(
            client,
            "ClosePreparedStatement",
            "ActionClosePreparedStatementRequest",
            prepared_statement_handle=handle,
        )
        with pytest.raises(KeyError, match="STATEMENT_NOT_FOUND"):
            run(client, handle)


def test_a_prepared_update_says_so_and_counts_its_rows(server):
    with server.client() as client:
        query(client, "create temp table prep (a int, b varchar)")
        prepared = prepare(client, "insert into prep values (?, ?)")
        assert prepared.is_update is True
        assert prepared.dataset_schema == b""
        rows = pa.table({"0": list(range(500)), "1": ["x"] * 500})
        metadata = bind(client, prepared.prepared_statement_handle, rows, "CommandPreparedStatementUpdate")
        assert message_class("DoPutUpdateResult").FromString(metadata.to_pybytes()).record_count == 500
        assert query(client, "select count(*) as n, sum(a) as s from prep").to_pydict() == {
            "n": [500],
            "s": [124750],
        }


def test_rows_bound_to_an_update_are_one_unit(server):
    with server.client() as client:
        query(client, "create temp table unit (a int not null)")
        handle = prepare(client, "insert into unit values (?)").prepared_statement_handle
        with pytest.raises(pa.ArrowInvalid, match="SQL_FAILED"):
            bind(client, handle, pa.table({"0": pa.array([1, 2, None])}), "CommandPreparedStatementUpdate")
        assert query(client, "select count(*) as n from unit").to_pydict() == {"n": [0]}


def test_the_wrong_number_of_parameters_is_refused(server):
    with server.client() as client:
        handle = prepare(client, "select ? + ?").prepared_statement_handle
        with pytest.raises(pa.ArrowInvalid, match="has 2 parameters, but 1"):
            bind(client, handle, pa.table({"0": [1]}))
